"""Runs the layer's runtime cases on a module of the simulator.

Stands in for the few parts of OE's oeqa that the cases use. A command for the module goes to standard output as
{"run": COMMAND, "seconds": LIMIT}; the answer comes on standard input as {"status": CODE, "output": TEXT}. What became of
each test is said as {"test": NAME, "outcome": "passed" | "failed" | "skipped", "why": TEXT}.

    run.py FOLDER_OF_CASES
"""

import importlib
import json
import pathlib
import sys
import types
import unittest


def say(**message):
    print(json.dumps(message), flush=True)


class Target:
    def run(self, command, timeout=60):
        say(run=command, seconds=timeout)
        reply = json.loads(sys.stdin.readline())
        return reply["status"], reply["output"].strip()


class Case(unittest.TestCase):
    target = Target()


class Outcomes(unittest.TestResult):
    def addSuccess(self, test):
        say(test=test.id(), outcome="passed", why="")

    def addFailure(self, test, error):
        say(test=test.id(), outcome="failed", why=str(error[1]))

    addError = addFailure

    def addSkip(self, test, reason):
        say(test=test.id(), outcome="skipped", why=reason)


def depends(_names):
    # Order is all that it gives; the tests of a case are few, and each says itself what it lacks.
    return lambda test: test


def stand_in(name, **content):
    module = types.ModuleType(name)
    module.__dict__.update(content)
    sys.modules[name] = module


for package in ("oeqa", "oeqa.core", "oeqa.core.decorator", "oeqa.runtime"):
    stand_in(package)
stand_in("oeqa.core.decorator.depends", OETestDepends=depends)
stand_in("oeqa.runtime.case", OERuntimeTestCase=Case)

folder = pathlib.Path(sys.argv[1])
sys.path.insert(0, str(folder))
sys.dont_write_bytecode = True
outcomes = Outcomes()
for path in sorted(folder.glob("spacecloud_*.py")):
    unittest.defaultTestLoader.loadTestsFromModule(importlib.import_module(path.stem)).run(outcomes)
