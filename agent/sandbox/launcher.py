"""Start a program in its sandbox: `python -I -S launcher.py CONFIG -- PROGRAM ...`, CONFIG a JSON file or a descriptor.

With -S no installed package is in reach: what this imports is the standard library and its own neighbours.
"""

import sys
from pathlib import Path

if __name__ == "__main__":
    sys.path.append(str(Path(__file__).resolve().parents[2]))
    from agent.sandbox import confinement

    confinement.main(sys.argv)
