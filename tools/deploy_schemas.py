#!/usr/bin/env python3
"""YAML of deploy folders against published schemas: deploy_schemas.py --lws CRD --compose SCHEMA FOLDER…

Kubernetes objects strictly by kubernetes-validate (1.31), LeaderWorkerSets by the CRD of kubernetes-sigs/lws
(config/crd/bases/leaderworkerset.x-k8s.io_leaderworkersets.yaml) with unknown keys refused, compose files by compose-spec's
schema/compose-spec.json. Needs kubernetes-validate, jsonschema and PyYAML (pip); without them it ends with 77.
"""
import argparse
import json
import pathlib
import sys

try:
    import jsonschema
    import kubernetes_validate
    import yaml
except ImportError as error:
    print(f"skipped: {error}")
    sys.exit(77)


def strict(schema):
    """Unknown keys are errors, as `kubectl --validate=strict` has it."""
    if isinstance(schema, list):
        for item in schema:
            strict(item)
    if not isinstance(schema, dict):
        return
    if "properties" in schema and schema.get("type") == "object" and not schema.get("x-kubernetes-preserve-unknown-fields"):
        schema.setdefault("additionalProperties", False)
    if schema.get("x-kubernetes-int-or-string"):
        schema.pop("type", None)
    for value in list(schema.values()):
        strict(value)


def leader_worker_set(path):
    crd = yaml.safe_load(pathlib.Path(path).read_text())
    schema = crd["spec"]["versions"][0]["schema"]["openAPIV3Schema"]
    strict(schema)
    schema["properties"]["metadata"] = {"type": "object"}
    return jsonschema.Draft202012Validator(schema)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--lws", required=True)
    parser.add_argument("--compose", required=True)
    parser.add_argument("folders", nargs="+")
    options = parser.parse_args()
    sets = leader_worker_set(options.lws)
    compose = jsonschema.Draft7Validator(json.loads(pathlib.Path(options.compose).read_text()))
    counts, wrong = {}, []
    for folder in options.folders:
        for path in sorted(pathlib.Path(folder).rglob("*.yaml")):
            if path.name not in ("kubernetes.yaml", "compose.yaml"):
                continue
            for document in filter(None, yaml.safe_load_all(path.read_text())):
                kind = document.get("kind", "compose file") if path.name == "kubernetes.yaml" else "compose file"
                counts[kind] = counts.get(kind, 0) + 1
                if kind in ("LeaderWorkerSet", "compose file"):
                    errors = (sets if kind == "LeaderWorkerSet" else compose).iter_errors(document)
                    wrong += [f"{path}: {'.'.join(map(str, e.path))}: {e.message[:200]}" for e in errors]
                    continue
                try:
                    kubernetes_validate.validate(document, "1.31", strict=True)
                except kubernetes_validate.ValidationError as error:
                    wrong.append(f"{path}: {kind}: {error.message}")
    print("\n".join(wrong + [f"{count} {kind}" for kind, count in sorted(counts.items())]))
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
