"""The table of key_effects_test.py, put together from the files beside this one."""
import re

from . import deployment, faults, figures, sglang, tensorrt_llm, vllm, workload

TABLE = (deployment.EFFECTS + faults.EFFECTS + workload.EFFECTS + figures.EFFECTS + vllm.EFFECTS + sglang.EFFECTS +
         tensorrt_llm.EFFECTS)


def engine_arguments(source):
    """"vllm.max_num_seqs", …: every argument that an engine profile lists as effective."""
    names = set()
    for path in sorted((source / "engine_profiles").glob("*.yaml")):
        text = re.sub(r"(^|\s)#.*", "", path.read_text())
        if re.search(r"^base:", text, re.M):
            continue  # another version over its neighbour: the same arguments
        engine = re.search(r"^engine: *(\S+)", text, re.M)[1]
        block = re.search(r"^  effective:(.*?)^  \w", text, re.M | re.S)[1]
        if block.lstrip().startswith("["):
            found = re.findall(r"[\w.]+", block)
        else:
            found = re.findall(r"^    (\w+):", block, re.M)
        names |= {f"{engine}.{name}" for name in found}
    return names
