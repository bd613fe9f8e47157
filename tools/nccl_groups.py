"""What vLLM's expert gather costs inside a CUDA graph: all-gathers of a row's hidden values, weights and indices (one group), and the reduce-scatter."""
import os, time, torch, torch.distributed as dist
r = int(os.environ["RANK"]); n = int(os.environ["WORLD_SIZE"]); torch.cuda.set_device(r)
dist.init_process_group("nccl", device_id=torch.device("cuda", r))
g = dist.group.WORLD; L = 48
def timed(body, reps=20):
    s = torch.cuda.Stream()
    with torch.cuda.stream(s):
        for _ in range(3): body()
    torch.cuda.synchronize(); dist.barrier(); torch.cuda.synchronize()
    gr = torch.cuda.CUDAGraph()
    with torch.cuda.graph(gr):
        for _ in range(L): body()
    for _ in range(3): gr.replay()
    torch.cuda.synchronize(); v = []
    for _ in range(reps):
        dist.barrier(); torch.cuda.synchronize()
        a, b = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
        a.record(); gr.replay(); b.record(); torch.cuda.synchronize(); v.append(a.elapsed_time(b) * 1e3 / L)
    v.sort(); return v[len(v) // 2]
w = torch.randn(4096, 4096, device="cuda", dtype=torch.bfloat16)
for rows in (1, 2, 8, 32, 128, 512):
    h = torch.randn(rows, 2048, device="cuda", dtype=torch.bfloat16); H = torch.empty(rows * n, 2048, device="cuda", dtype=torch.bfloat16)
    t = torch.randn(rows, 8, device="cuda"); T = torch.empty(rows * n, 8, device="cuda"); i = torch.zeros(rows, 8, device="cuda", dtype=torch.int32); I = torch.empty(rows * n, 8, device="cuda", dtype=torch.int32)
    x = torch.randn(rows, 4096, device="cuda", dtype=torch.bfloat16)
    def one(): dist.all_gather_into_tensor(H, h)
    def three():
        with dist._coalescing_manager(group=g, device=torch.device("cuda", r)):
            dist.all_gather_into_tensor(H, h); dist.all_gather_into_tensor(T, t); dist.all_gather_into_tensor(I, i)
    def rs(): dist.reduce_scatter_tensor(h, H)
    def gemm():
        for _ in range(4): torch.mm(x, w)
    def both():
        gemm(); three(); gemm(); rs()
    def two_gemms(): gemm(); gemm()
    a = [timed(f) for f in (one, three, rs, two_gemms, both)]
    if r == 0: print(f"ranks {n} rows {rows}: all_gather {a[0]:.2f} group of three {a[1]:.2f} reduce_scatter {a[2]:.2f} products alone {a[3]:.2f} products with both {a[4]:.2f} -> both {a[4]-a[3]:.2f} us", flush=True)
dist.destroy_process_group()
