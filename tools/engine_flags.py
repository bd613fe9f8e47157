#!/usr/bin/env python3
"""Flags of the engines' command lines, read in their sources: engine_flags.py WHEEL_OR_FOLDER [--out FOLDER].

Writes engine_profiles/launch/flags/<name>.txt, which the deploy files of `orrery plan` are checked against. A line is a flag
and how it takes its value: `value`, `switch` (none), `either` (--x and --no-x). Read as syntax (ast); nothing of an engine is
imported. Wheels: pip download --no-deps vllm==0.24.0 sglang==0.5.23 sglang-router==0.3.2 vllm-router==0.1.17. TensorRT-LLM's
is on no index that was at hand: a folder with its repository's tensorrt_llm/commands/serve.py.
"""
import ast
import pathlib
import sys
import zipfile


class Source:
    def __init__(self, path):
        self.path = pathlib.Path(path)
        self.zip = zipfile.ZipFile(path) if self.path.is_file() else None

    def names(self, under):
        if self.zip:
            return sorted(n for n in self.zip.namelist() if n.startswith(under) and n.endswith(".py"))
        return sorted(str(p.relative_to(self.path)) for p in self.path.glob(under + "**/*.py"))

    def has(self, name):
        return name in self.zip.namelist() if self.zip else (self.path / name).exists()

    def tree(self, name):
        return ast.parse(self.zip.read(name) if self.zip else (self.path / name).read_bytes())


def classes(tree):
    return {node.name: node for node in ast.walk(tree) if isinstance(node, ast.ClassDef)}


def fields(node):
    """Annotated names of a class: (name, annotation as text)."""
    return [(s.target.id, s.annotation) for s in node.body if isinstance(s, ast.AnnAssign) and isinstance(s.target, ast.Name)]


def text_of(node):
    """A string, or an f-string whose holes are dropped (a prefix that is empty by default)."""
    if isinstance(node, ast.Constant) and isinstance(node.value, str):
        return node.value
    if isinstance(node, ast.JoinedStr):
        return "".join(v.value for v in node.values if isinstance(v, ast.Constant))
    return ""


def added(tree, within=None):
    """Calls of add_argument and click.option: (flags, keywords)."""
    for call in ast.walk(within or tree):
        if isinstance(call, ast.Call) and isinstance(call.func, ast.Attribute) and call.func.attr in ("add_argument", "option"):
            names = [t for t in map(text_of, call.args) if t.startswith("-")]
            if names:
                yield names, {k.arg: k.value for k in call.keywords}


def kind_of(keywords):
    action = keywords.get("action")
    if action is None:
        return "switch" if "is_flag" in keywords else "value"
    name = action.value if isinstance(action, ast.Constant) else ast.unparse(action)
    if "BooleanOptional" in str(name):
        return "either"
    return "switch" if str(name).startswith(("store_true", "store_false")) or "StoreTrue" in str(name) else "value"


def vllm(source):
    """EngineArgs and AsyncEngineArgs add their fields by hand, with kwargs from the fields of the configs (get_kwargs):
    a bool becomes --x and --no-x (but beside str, where it may stand alone or take a value); FrontendArgs adds all of its own."""
    tree = source.tree("vllm/engine/arg_utils.py")
    types = {}
    for name in source.names("vllm/config/") + ["vllm/engine/arg_utils.py"]:
        for node in classes(source.tree(name)).values():
            for field, annotation in fields(node):
                types.setdefault(field, ast.unparse(annotation))
    for name in ("EngineArgs", "AsyncEngineArgs"):
        types.update({f: ast.unparse(a) for f, a in fields(classes(tree)[name])})

    def kind(field):
        hint = types.get(field, "")
        return "either" if "bool" in hint and "str" not in hint else "value"

    flags = {}
    for names, keywords in added(tree):
        stars = keywords.get(None)  # **group_kwargs["field"]
        field = next((n.slice.value for n in ast.walk(stars) if isinstance(n, ast.Subscript) and isinstance(n.slice, ast.Constant)),
                     None) if stars else None
        for flag in names:
            flags[flag] = kind(field) if field else kind_of(keywords)
    tree = source.tree("vllm/entrypoints/openai/cli_args.py")
    for name in ("BaseFrontendArgs", "FrontendArgs"):
        for field, annotation in fields(classes(tree)[name]):
            types[field] = ast.unparse(annotation)
            flags["--" + field.replace("_", "-")] = kind(field)
    for function in ast.walk(tree):
        if isinstance(function, ast.FunctionDef) and function.name == "make_arg_parser":
            for names, keywords in added(tree, function):
                flags.update({flag: kind_of(keywords) for flag in names})
    return flags


def sglang(source):
    """Every field of the groups that has a help text or an Arg without no_cli, by its name or cli_name (add_cli_args_from_dataclass);
    a bool is a switch. ServerArgs adds some by hand."""
    flags = {}
    for name in source.names("sglang/srt/arg_groups/fields/"):
        for node in classes(source.tree(name)).values():
            for field, annotation in fields(node):
                if not (isinstance(annotation, ast.Subscript) and ast.unparse(annotation.value) == "A"):
                    continue
                inner, *meta = annotation.slice.elts
                arg = next((m for m in meta if isinstance(m, ast.Call) and ast.unparse(m.func) == "Arg"), None)
                keywords = {k.arg: k.value for k in arg.keywords} if arg else {}
                if not arg and not any(text_of(m) for m in meta):
                    continue
                if ast.unparse(keywords.get("no_cli", ast.Constant(False))) == "True":
                    continue
                kind = "switch" if "bool" in ast.unparse(inner) and "action" not in keywords else kind_of(keywords)
                names = [text_of(keywords["cli_name"]) if "cli_name" in keywords else "--" + field.replace("_", "-")]
                names += [text_of(a) for a in getattr(keywords.get("aliases"), "elts", [])]
                flags.update({flag: kind for flag in names})
    for names, keywords in added(source.tree("sglang/srt/server_args.py")):
        flags.update({flag: kind_of(keywords) for flag in names})
    return flags


def router(package):
    def read(source):
        flags = {}
        for name in (f"{package}/router_args.py", f"{package}/launch_router.py"):
            for names, keywords in added(source.tree(name)):
                flags.update({flag: kind_of(keywords) for flag in names})
        return flags
    return read


def tensorrt_llm(command):
    def read(source):
        tree = source.tree("tensorrt_llm/commands/serve.py")
        function = next(n for n in ast.walk(tree) if isinstance(n, ast.FunctionDef) and n.name == command)
        flags = {}
        for decorator in function.decorator_list:
            for names, keywords in added(tree, decorator):
                flags.update({flag: kind_of(keywords) for flag in names})
        return flags
    return read


# What tells a source, the list's name, who reads it.
LISTS = [("vllm/engine/arg_utils.py", "vllm-0.24", vllm), ("sglang/srt/server_args.py", "sglang-0.5", sglang),
         ("sglang_router/router_args.py", "sglang-router", router("sglang_router")),
         ("vllm_router/router_args.py", "vllm-router", router("vllm_router")),
         ("tensorrt_llm/commands/serve.py", "tensorrt-llm-1.2", tensorrt_llm("serve")),
         ("tensorrt_llm/commands/serve.py", "tensorrt-llm-1.2-disaggregated", tensorrt_llm("disaggregated"))]


def main():
    words = sys.argv[1:]
    out = pathlib.Path(__file__).parent.parent / "engine_profiles/launch/flags"
    if "--out" in words:
        at = words.index("--out")
        out = pathlib.Path(words[at + 1])
        del words[at:at + 2]
    out.mkdir(parents=True, exist_ok=True)
    for path in words:
        source = Source(path)
        for sign, name, read in LISTS:
            if source.has(sign):
                flags = read(source)
                lines = [f"# {sign} of {pathlib.Path(path).name.split('-cp')[0].split('-py3')[0]} (tools/engine_flags.py)"]
                lines += [f"{flag} {flags[flag]}" for flag in sorted(flags)]
                (out / f"{name}.txt").write_text("\n".join(lines) + "\n")
                print(f"{out / name}.txt: {len(flags)} flags")


if __name__ == "__main__":
    main()
