"""AgentDojo's side of its benchmark, run by the Python of an environment of its own: it knows nothing of opsagent.

It reads one JSON command a line: `suites`, `begin` a task in a fresh environment, `call` a tool there, `end` the task
and say whether it was achieved.
"""

import json
import sys
from functools import cache
from typing import Any

from agentdojo.agent_pipeline.ground_truth_pipeline import GroundTruthPipeline
from agentdojo.agent_pipeline.tool_execution import tool_result_to_str
from agentdojo.base_tasks import BaseUserTask
from agentdojo.functions_runtime import FunctionCall, FunctionsRuntime
from agentdojo.task_suite.load_suites import get_suites
from agentdojo.types import text_content_block_from_string

VERSION = "v1.2.2"


class Dojo:
    """The suites, and the task in hand."""

    def __init__(self) -> None:
        self._suites = get_suites(VERSION)
        self._environments = {
            name: suite.load_and_inject_default_environment({}) for name, suite in self._suites.items()
        }

    def suites(self) -> dict[str, Any]:
        return {
            name: {
                "tools": [
                    {"name": tool.name, "description": tool.description, "schema": tool.parameters.model_json_schema()}
                    for tool in suite.tools
                ],
                "user": list(suite.user_tasks),
                "injection": list(suite.injection_tasks),
            }
            for name, suite in self._suites.items()
        }

    def begin(self, suite: str, kind: str, task: str) -> dict[str, Any]:
        """Set up a task; the answer says which calls its script makes, and whether they achieve it unhindered."""
        self._suite = self._suites[suite]
        self._task = (self._suite.user_tasks if kind == "user" else self._suite.injection_tasks)[task]
        achieved = self._achieved_unhindered(suite, kind, task)
        self._environment = self._environments[suite].model_copy(deep=True)
        if isinstance(self._task, BaseUserTask):
            self._environment = self._task.init_environment(self._environment)
        self._before = self._environment.model_copy(deep=True)
        self._runtime, self._trace = FunctionsRuntime(self._suite.tools), []
        calls = self._task.ground_truth(self._environment)
        return {
            "achieved": achieved,
            "calls": [
                {"name": call.function, "args": json.loads(json.dumps(call.args, default=str))} for call in calls
            ],
        }

    @cache  # noqa: B019 - there is one Dojo, and it lives as long as its process
    def _achieved_unhindered(self, suite: str, kind: str, task: str) -> bool:
        environment = self._environments[suite].model_copy(deep=True)
        script = GroundTruthPipeline(self._task)
        return self._suite.run_task_with_pipeline(script, self._task, None, {}, environment=environment)[0]

    def call(self, name: str, args: dict[str, Any]) -> dict[str, Any]:
        result, error = self._runtime.run_function(self._environment, name, args)
        self._trace.append(FunctionCall(function=name, args=args))
        return {"text": error or tool_result_to_str(result), "failed": error is not None}

    def end(self) -> dict[str, Any]:
        said = [text_content_block_from_string(self._task.GROUND_TRUTH_OUTPUT)]
        return {
            "achieved": self._suite._check_task_result(self._task, said, self._before, self._environment, self._trace)
        }


def main() -> None:
    dojo, answers = Dojo(), sys.stdout
    sys.stdout = sys.stderr
    for line in sys.stdin:
        command = json.loads(line)
        answer = getattr(dojo, command.pop("do"))(**command)
        print(json.dumps(answer), file=answers, flush=True)


if __name__ == "__main__":
    main()
