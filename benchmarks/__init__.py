"""Where the README's figures come from: `python -m benchmarks` measures them all, `python -m benchmarks NAME` one."""
