#include "cli/commands/plan_emit.h"

#include <filesystem>

#include "base/files.h"

namespace orrery {

namespace {

// A search takes eight passes where nobody fails; more would be the same failure again and again.
const std::string most_passes = "20";

// A pass of all shards, a merge, and again while the merge says that results are missing (exit code 6).
std::string slurm_script(const EmitOptions& o) {
  return "#!/usr/bin/env bash\n"
         "# Shards of a search by Slurm. Start it on a login node, where it submits itself: bash "
         "plan-slurm.sh\n"
         "# Options of sbatch (partition, account) stand in SBATCH_PARTITION, SBATCH_ACCOUNT, …\n"
         "#SBATCH --job-name=orrery-plan\n#SBATCH --ntasks=1\n#SBATCH --cpus-per-task=1\n"
         "set -euo pipefail\n"
         "shards=" +
         std::to_string(o.shards) +
         "\n"
         "search() { " +
         o.command +
         " \"$@\"; }\n"
         "# The folder that it was started in; a job's own script is a copy elsewhere.\n"
         "script=${ORRERY_PLAN_SCRIPT:-$(realpath \"$0\")}\n"
         "case \"${1:-submit}\" in\n"
         "  submit)\n"
         "    export ORRERY_PLAN_SCRIPT=$script ORRERY_PLAN_PASS=$((${ORRERY_PLAN_PASS:-0} + 1))\n"
         "    if [ $ORRERY_PLAN_PASS -gt " +
         most_passes +
         " ]; then echo 'results are still missing: see what the shards say' >&2; exit 6; fi\n"
         "    array=$(sbatch --parsable --array=1-$shards \"$script\" shard)\n"
         "    sbatch --dependency=afterany:\"$array\" --kill-on-invalid-dep=yes \"$script\" merge ;;\n"
         "  shard) search --shard \"$SLURM_ARRAY_TASK_ID/$shards\" ;;\n"
         "  merge)\n"
         "    code=0; search --merge || code=$?\n"
         "    if [ $code = 6 ]; then exec bash \"$script\" submit; fi\n"
         "    exit $code ;;\n"
         "esac\n";
}

std::string kubernetes_job(const EmitOptions& o) {
  const std::string shards = std::to_string(o.shards);
  return "# Shards of a search as an indexed Job; plan-k8s.sh runs it until nothing is missing.\n"
         "# IMAGE has orrery in it; the claim orrery-plan is a volume that all pods may write "
         "(ReadWriteMany), with\n"
         "# the search's files at /work.\n"
         "apiVersion: batch/v1\nkind: Job\nmetadata:\n  name: orrery-plan\nspec:\n  completionMode: Indexed\n"
         "  completions: " +
         shards + "\n  parallelism: " + shards +
         "\n  backoffLimit: 6\n  template:\n    spec:\n      restartPolicy: Never\n      containers:\n"
         "        - name: shard\n          image: IMAGE\n          workingDir: /work\n"
         "          command: [\"/bin/bash\", \"-c\"]\n          args:\n            - |\n"
         "              exec " +
         o.command + " --shard \"$((JOB_COMPLETION_INDEX + 1))/" + shards +
         "\"\n"
         "          resources:\n            requests: {cpu: \"1\", memory: 1Gi}\n"
         "          volumeMounts:\n            - {name: work, mountPath: /work}\n"
         "      volumes:\n        - name: work\n          persistentVolumeClaim: {claimName: orrery-plan}\n";
}

std::string kubernetes_script(const EmitOptions& o) {
  return "#!/usr/bin/env bash\n"
         "# Passes of plan-k8s.yaml, each with a merge, where /work of the pods is this folder: bash "
         "plan-k8s.sh\n"
         "set -euo pipefail\n"
         "job=$(realpath \"$(dirname \"$0\")\")/plan-k8s.yaml\n"
         "for pass in $(seq " +
         most_passes +
         "); do\n"
         "  kubectl delete job orrery-plan --ignore-not-found --wait\n"
         "  kubectl apply -f \"$job\"\n"
         "  until kubectl wait --for=condition=complete --timeout=60s job/orrery-plan; do\n"
         "    if kubectl wait --for=condition=failed --timeout=1s job/orrery-plan; then break; fi\n"
         "  done\n"
         "  code=0; " +
         o.command +
         " --merge || code=$?\n"
         "  if [ $code != 6 ]; then exit $code; fi\n"
         "done\n"
         "echo 'results are still missing: see what the pods say' >&2\nexit 6\n";
}

}  // namespace

Result<std::string> emit_scripts(const EmitOptions& o) {
  std::error_code ignored;  // writing says what is wrong
  std::filesystem::create_directories(o.out, ignored);
  const auto write = [&](const char* name, const std::string& text) {
    return write_file_atomically(o.out + "/" + name, text);
  };
  if (o.kind == "slurm") {
    ORRERY_TRY_STATUS(write("plan-slurm.sh", slurm_script(o)));
    return "next        bash " + o.out + "/plan-slurm.sh\n";
  }
  ORRERY_TRY_STATUS(write("plan-k8s.yaml", kubernetes_job(o)));
  ORRERY_TRY_STATUS(write("plan-k8s.sh", kubernetes_script(o)));
  return "next        put your image into " + o.out + "/plan-k8s.yaml, then bash " + o.out + "/plan-k8s.sh\n";
}

}  // namespace orrery
