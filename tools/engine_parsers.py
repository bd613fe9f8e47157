#!/usr/bin/env python3
"""Deploy files against the engines' own argument parsers: engine_parsers.py WHEEL_FOLDER SCRIPT…

Takes the parser of `vllm serve` (vllm.entrypoints.openai.cli_args) and of `sglang.launch_server` (sglang.srt.server_args) out of
the wheels (pip download --no-deps vllm==0.24.0 sglang==0.5.23), with stand-ins for whatever they import that is not installed
(torch, triton, …: nothing of a GPU is run), and has them parse the command lines of deploy/*/serve-*.sh. Prints a line a script;
ends with 1 where a parser refuses one, and with 77 where a wheel is absent or its parser cannot be made without what is stubbed.
"""
import abc
import argparse
import glob
import importlib.abc
import importlib.machinery
import importlib.metadata
import json
import os
import pathlib
import subprocess
import sys
import tempfile
import types

SKIPPED = 77
# What is installed, and what has to be absent where it is not (other interpreters' modules, TPUs).
KEPT = ("org", "java", "libtpu", "tpu_inference", "amdsmi", "pynvml", "torch_npu", "torch_musa", "torch_mlu",
         "msgspec", "cloudpickle", "psutil", "pydantic", "pydantic_core", "annotated_types", "typing_inspection", "typing_extensions", "yaml", "regex", "packaging", "numpy")


KERNELS = ("vllm._C", "vllm.ir", "vllm.kernels")  # of the engines' own: register operators with torch


class AnyClass(abc.ABCMeta):
    def __getattr__(cls, name):
        if name == "__class_validators__":  # of Hugging Face's dataclasses
            return []
        if name.startswith("__"):
            raise AttributeError(name)
        return Call(name)


class AnyBase(metaclass=AnyClass):
    def __init__(self, *words, **named):
        pass

    def __init_subclass__(cls, **named):
        pass

    def __class_getitem__(cls, item):
        return cls

    @classmethod
    def __get_pydantic_core_schema__(cls, source, handler):
        from pydantic_core import core_schema
        return core_schema.any_schema()

    def __call__(self, *words, **named):
        return words[0] if len(words) == 1 and callable(words[0]) else Call("called")

    def __getattr__(self, name):
        if name.startswith("__"):
            raise AttributeError(name)
        return Call(name)


class Anything(types.ModuleType):
    """Stands for a module, a class, a decorator or a value of a package that is not here."""

    def __init__(self, name="stand_in"):
        super().__init__(name)
        self.__path__ = []
        self.__version__ = "99.0.0"

    def __getattr__(self, name):
        if name.startswith("__") and name not in ("__version__",) or name in ("npu", "musa", "mlu", "hpu"):
            raise AttributeError(name)
        a_class = name[:1].isupper() or name in ("dtype", "device")
        made = AnyClass(name, (AnyBase,), {}) if a_class else Call(name)
        setattr(self, name, made)
        return made


class Call(Anything):
    def __call__(self, *words, **named):
        # A decorator gives back what it is put on.
        return words[0] if len(words) == 1 and callable(words[0]) and not named else Call("called")

    def __iter__(self):
        return iter(())

    def __mro_entries__(self, bases):
        return (object,)

    __lt__ = __gt__ = __le__ = __ge__ = lambda self, other: False
    __bool__ = lambda self: False
    __enter__ = lambda self: self
    __exit__ = lambda self, *words: False
    __or__ = __ror__ = lambda self, other: object
    __getitem__ = lambda self, key: Call("item")
    __eq__ = lambda self, other: isinstance(other, Call)
    __hash__ = object.__hash__
    __int__ = __index__ = __len__ = lambda self: 0
    __add__ = __radd__ = __mod__ = __sub__ = __mul__ = __rmul__ = lambda self, other: other
    __float__ = lambda self: 0.0
    __contains__ = lambda self, item: False
    __str__ = lambda self: "0.0.0"


class StandIns(importlib.abc.MetaPathFinder, importlib.abc.Loader):
    def __init__(self, own):
        self.own = own

    def find_spec(self, name, path=None, target=None):
        top = name.partition(".")[0]
        if top in sys.stdlib_module_names or top in KEPT or (top == self.own and not name.startswith(KERNELS)):
            return None
        return importlib.machinery.ModuleSpec(name, self, is_package=True)

    def create_module(self, spec):
        return Anything(spec.name)

    def exec_module(self, module):
        pass


def stand_in(engine):
    known = importlib.metadata.version

    def version(name):
        try:
            return known(name)
        except importlib.metadata.PackageNotFoundError:
            return "99.0.0"

    importlib.metadata.version = version
    sys.meta_path.insert(0, StandIns(engine))


def wheel(folder, name):
    found = sorted(glob.glob(os.path.join(folder, name + "-*.whl")))
    return found[-1] if found else None


def vllm_parser():
    from vllm.platforms import current_platform
    type(current_platform).device_type = "cuda"
    from vllm.entrypoints.openai.cli_args import make_arg_parser
    from vllm.utils.argparse_utils import FlexibleArgumentParser
    return make_arg_parser(FlexibleArgumentParser())


def sglang_parser():
    from sglang.srt.server_args import ServerArgs
    parser = argparse.ArgumentParser()
    ServerArgs.add_cli_args(parser)
    return parser


PARSERS = {"vllm": vllm_parser, "sglang": sglang_parser}


def words_of(script, bin_folder):
    """(engine, arguments) that a serve script ends with: run with stand-ins for the programs."""
    env = dict(os.environ, PATH=bin_folder + os.pathsep + os.environ["PATH"], MODEL="org/model", PORT="8000", NODE_RANK="1", LEADER="10.0.0.1")
    done = subprocess.run(["bash", script], env=env, capture_output=True, text=True, timeout=30)
    words = done.stdout.split("\0")[:-1]
    if words[:2] == ["vllm", "serve"]:
        return "vllm", words[2:]
    if words[1:3] == ["-m", "sglang.launch_server"]:
        return "sglang", words[3:]
    return None, []


def stand_in_programs(folder):
    for name in ("vllm", "python3", "trtllm-serve"):
        path = pathlib.Path(folder) / name
        path.write_text('#!/bin/sh\nprintf "%s\\0" "$(basename "$0")" "$@"\n')
        path.chmod(0o755)


def parse_all(engine, folder, lines):
    """In a process of its own: stand-ins stay in it."""
    path = wheel(folder, engine)
    if path is None:
        print(f"skipped: no wheel of {engine} in {folder}")
        return SKIPPED
    os.environ.update(VLLM_TARGET_DEVICE="empty", SGLANG_USE_CPU_ENGINE="1")
    sys.path.insert(0, path)
    stand_in(engine)
    try:
        parser = PARSERS[engine]()
    except Exception as error:  # noqa: BLE001: whatever a stand-in could not stand for
        print(f"skipped: the parser of {os.path.basename(path)} cannot be made without what it imports: {error!r}")
        return SKIPPED
    code = 0
    for script, words in lines:
        try:
            parser.parse_args(words)
            print(f"{script}: {os.path.basename(path)} takes it")
        except SystemExit:
            print(f"{script}: {os.path.basename(path)} refuses {' '.join(words)}")
            code = 1
    return code


def main():
    if sys.argv[1:2] == ["--one"]:
        return parse_all(sys.argv[2], sys.argv[3], json.loads(sys.stdin.read()))
    if len(sys.argv) < 3:
        print(__doc__.splitlines()[0], file=sys.stderr)
        return 2
    by_engine = {}
    with tempfile.TemporaryDirectory() as programs:
        stand_in_programs(programs)
        for script in sys.argv[2:]:
            engine, words = words_of(script, programs)
            if engine:
                by_engine.setdefault(engine, []).append((script, words))
            else:
                print(f"{script}: no command line of vLLM or SGLang")
    codes = []
    for engine, lines in sorted(by_engine.items()):
        done = subprocess.run([sys.executable, __file__, "--one", engine, sys.argv[1]], input=json.dumps(lines), text=True)
        codes.append(done.returncode)
    return 1 if any(c not in (0, SKIPPED) for c in codes) else SKIPPED if SKIPPED in codes or not codes else 0


if __name__ == "__main__":
    sys.exit(main())
