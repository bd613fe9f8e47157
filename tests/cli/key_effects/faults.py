"""Instances that come and go: `faults`, `on_failure`, `start`, `rolling_update`, `autoscale`."""
from .effects import down, moves, up

TWO = "deployment.replicas=2; deployment.start={engine_s: 0.1, load_gb_per_s: 1000}; "
LOST = "faults=[{at_s: 0.5, kind: gpu, target: {instance: 0}, for_s: 0.5}]"
SLOW = "faults=[{at_s: 0, kind: gpu, factor: 0.5, target: {instance: 0}}]"
DRAWN = "faults=[{kind: gpu, target: all, mtbf_h: 0.001, repair_s: 0.01}]"
QUICK = "deployment.on_failure={policy: retry, retries: 3, detection_s: 0.1}; "
SCALED = ("deployment.start={engine_s: 0.05, load_gb_per_s: 1000}; "
          "deployment.autoscale={metric: outstanding, target: 2, min: 1, max: 4, interval_s: 0.1, cooldown_s: 0.1}")

EFFECTS = [
    moves("faults.kind", "nodes", "faults[0].kind=node", "ttft_ms.mean",
          without="faults=[{at_s: 0, kind: nic, factor: 0.5, target: all}]"),
    down("faults.at_s", "plain", "faults[0].at_s=900", "fleet.faults", without=TWO + LOST),
    down("faults.for_s", "plain", "faults[0].for_s=1.5", "fleet.availability", without=TWO + LOST),
    up("faults.factor", "plain", "faults[0].factor=0.25", "tpot_ms.mean", without=SLOW),
    up("faults.target", "plain", "faults[0].target=all", "fleet.instances_lost", without=TWO + LOST),
    moves("faults.target.instance", "plain", "faults[0].target.instance=1", "ttft_ms.mean",
          without="deployment.replicas=2; " + SLOW),
    moves("faults.target.replica", "plain", "faults[0].target.replica=1", "ttft_ms.mean",
          without="deployment.replicas=2; faults=[{at_s: 0, kind: gpu, factor: 0.5, target: {replica: 0}}]"),
    moves("faults.target.gpu", "plain", "faults[0].target.gpu=1", "ttft_ms.mean",
          without="deployment.parallel={pp: 2}; " + SLOW),
    up("faults.target.pool", "apart", "faults[0].target.pool=d", "tpot_ms.mean",
       without="faults=[{at_s: 0, kind: gpu, factor: 0.5, target: {pool: p}}]"),
    up("faults.mtbf_h", "plain", "faults[0].mtbf_h=0.0001", "fleet.faults", without=TWO + DRAWN),
    down("faults.repair_s", "plain", "faults[0].repair_s=1", "fleet.availability",
         without=TWO + "faults=[{kind: gpu, target: {instance: 0}, mtbf_h: 0.0001, repair_s: 0.01}]"),
    up("deployment.on_failure.policy", "plain", "deployment.on_failure={policy: fail, detection_s: 0.1}",
       "fleet.requests_failed", without=TWO + QUICK + LOST),
    up("deployment.on_failure.retries", "plain", "deployment.on_failure.retries=0", "fleet.requests_failed",
       without=TWO + QUICK + LOST),
    up("deployment.on_failure.detection_s", "plain", "deployment.on_failure.detection_s=0.4", "fleet.requests_lost",
       without=TWO + QUICK + LOST),
    down("deployment.start.engine_s", "plain", "deployment.start.engine_s=1", "fleet.availability", without=TWO + LOST),
    down("deployment.start.load_gb_per_s", "plain", "deployment.start.load_gb_per_s=20", "fleet.availability",
         without=TWO + LOST),
    down("deployment.start.from", "plain", "deployment.start.from=storage", "fleet.availability",
         without="deployment.topology={preset: hopper-8, nodes: 2, nics_per_node: 1, nic_gbps: 100}; " + TWO + LOST),
    down("deployment.rolling_update.at_s", "plain", "deployment.rolling_update.at_s=900", "fleet.instances_updated",
         without=TWO + "deployment.rolling_update={at_s: 0.2}"),
    down("deployment.autoscale.metric", "plain", "deployment.autoscale.metric=waiting", "fleet.gpu_hours",
         without=SCALED),
    down("deployment.autoscale.target", "plain", "deployment.autoscale.target=200", "fleet.gpu_hours", without=SCALED),
    up("deployment.autoscale.min", "plain", "deployment.autoscale.min=4", "fleet.gpu_hours", without=SCALED),
    down("deployment.autoscale.max", "plain", "deployment.autoscale.max=2", "fleet.gpu_hours", without=SCALED),
    down("deployment.autoscale.interval_s", "plain", "deployment.autoscale.interval_s=10", "fleet.gpu_hours",
         without=SCALED),
    up("deployment.autoscale.cooldown_s", "plain", "deployment.autoscale.cooldown_s=100", "fleet.gpu_hours",
       without=SCALED),
]
