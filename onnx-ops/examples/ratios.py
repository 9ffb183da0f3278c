"""Times ONNX models on ONNX Runtime and on tract with and without the pass, one thread each, the three alternating.

Prints one line a model and batch: medians, ratios of ONNX Runtime's time to ours (above 1: we are faster), and whether
the outputs agree.
"""
import argparse, fcntl, json, math, os, re, statistics, subprocess, sys, tempfile, time
from pathlib import Path
import numpy as np, onnxruntime as ort

DIMS = {  # Sizes for what varies other than the batch.
    "ppocr_det": [None, 3, 320, 320], "ppocr_rec": [None, 3, 48, 320], "ppocr_cls": [None, 3, 48, 192],
    "ppocr_cls_int8_qdq": [None, 3, 48, 192], "nudenet": [None, 3, 320, 320], "minilm": [None, 128],
    "silero_vad_16k_sequence": {"input": [None, 576], "h": [1, 1, 128], "c": [1, 1, 128]},
    "silero_vad": {"input": [None, 576], "state": [2, None, 128], "sr": []},
}
NP = {"tensor(float)": ("f32", np.float32), "tensor(int32)": ("i32", np.int32), "tensor(int64)": ("i64", np.int64)}

class Side:
    def __init__(self, binary):
        self.p = subprocess.Popen([binary], stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
    def ask(self, **what):
        self.p.stdin.write(json.dumps(what) + "\n"); self.p.stdin.flush()
        line = self.p.stdout.readline()
        if not line: raise RuntimeError("the process ended")
        answer = json.loads(line)
        if "error" in answer: raise RuntimeError(answer["error"][:600])
        return answer

def make_inputs(session, stem, batch, rng):
    feeds = {}
    for i in session.get_inputs():
        dims = DIMS.get(stem, i.shape)
        if isinstance(dims, dict): dims = dims[i.name]
        shape = [batch if not isinstance(d, int) or d < 0 else d for d in dims]
        kind, dtype = NP[i.type]
        if kind == "f32": v = rng.random(shape, np.float32) if stem != "minilm" else rng.random(shape)
        elif i.name == "sr": v = np.array(16000)
        elif i.name == "attention_mask": v = np.ones(shape)
        elif i.name == "token_type_ids": v = np.zeros(shape)
        else: v = rng.integers(0, 255, shape)
        feeds[i.name] = v.astype(dtype)
    return feeds

def worst(a, b):
    if a.shape != b.shape: return f"shape {a.shape} {b.shape}"
    if a.dtype.kind != "f": return "same" if (a == b).all() else "DIFFERENT"
    over = np.abs(a - b) - (1e-4 + 1e-3 * np.abs(b))
    d = float(np.abs(a - b).max()) if a.size else 0.0
    return ("ok" if not np.isnan(a).any() and over.max() <= 0 else "FAIL") + f" {d:.1e}"

def main():
    a = argparse.ArgumentParser()
    a.add_argument("--models", default="models"); a.add_argument("--binary", required=True)
    a.add_argument("--only", default="."); a.add_argument("--seconds", type=float, default=6.0)
    a.add_argument("--batches", default="1,8"); a.add_argument("--profile", action="store_true")
    a.add_argument("--nodes", action="store_true"); a.add_argument("--lock")
    a.add_argument("--no-base", action="store_true"); a.add_argument("--json")
    args = a.parse_args()
    rng = np.random.default_rng(7)
    rows = []
    tmp = tempfile.mkdtemp()
    for path in sorted(Path(args.models).glob("*.onnx")):
        if not re.search(args.only, path.stem): continue
        for batch in map(int, args.batches.split(",")):
            stem = path.stem
            fixed = re.search(r"_b(\d)$", stem)
            if fixed and int(fixed[1]) != batch: continue
            so = ort.SessionOptions(); so.intra_op_num_threads = 1; so.inter_op_num_threads = 1; so.log_severity_level = 3
            try: session = ort.InferenceSession(str(path), so, providers=["CPUExecutionProvider"])
            except Exception as e: print(stem, "ORT", str(e)[:100]); continue
            feeds = make_inputs(session, stem, batch, rng)
            name = re.sub(r"_b\d$", "", stem) + f"_b{batch}"
            inputs = []
            for n, (key, v) in enumerate(feeds.items()):
                file = f"{tmp}/in.{n}"; Path(file).write_bytes(v.tobytes())
                kind = {"float32": "f32", "int32": "i32", "int64": "i64"}[str(v.dtype)]
                inputs.append({"dtype": kind, "shape": list(v.shape), "file": file})
            rust = Side(args.binary)
            try:
                sides = {}
                what = {"path": str(path), "inputs": inputs}
                for id, fast in ((0, False), (1, True)):
                    if fast is False and args.no_base: continue
                    rust.ask(load=id, fast=fast, **what); sides[fast] = id
            except RuntimeError as e:
                print(f"{name:32} tract: {str(e)[:160]!r}"); rust.p.kill(); continue
            try:
                want = session.run(None, feeds)
                checks = {}
                for fast, id in sides.items():
                    got = rust.ask(outputs=id, prefix=f"{tmp}/out{id}")["outputs"]
                    verdict = []
                    for g, w in zip(got, want):
                        if not isinstance(w, np.ndarray) or "file" not in g: verdict.append("-"); continue
                        t = np.fromfile(g["file"], {"F32": np.float32, "I64": np.int64, "I32": np.int32, "Bool": np.bool_}[g["dtype"]])
                        verdict.append(worst(t.reshape(g["shape"]), w))
                    checks[fast] = max(verdict, key=lambda v: (v.startswith("FAIL") or v.startswith("shape") or v == "DIFFERENT", v))
            except RuntimeError as e:
                print(f"{name:32} run: {str(e)[:300]!r}"); rust.p.kill(); continue
            if args.profile or args.nodes:
                for fast, id in sides.items():
                    print(name, "fast" if fast else "base")
                    for kind, us, count in rust.ask(profile=id, times=6, nodes=args.nodes)["profile_us"][:40]: print(f"   {us:10.1f} us x{count:<4} {kind}")
            lock = open(args.lock, "w") if args.lock else None
            if lock: fcntl.flock(lock, fcntl.LOCK_EX)
            t = time.perf_counter_ns(); session.run(None, feeds); once = time.perf_counter_ns() - t
            reps = max(1, min(50, int(2e7 / once)))
            times = {k: [] for k in ("ort", *sides)}
            cpu = {k: [] for k in times}
            end = time.time() + args.seconds
            rounds = 0
            while time.time() < end or rounds < 5:
                rounds += 1
                for _ in range(reps):
                    t, c = time.perf_counter_ns(), time.thread_time_ns()
                    session.run(None, feeds)
                    times["ort"].append(time.perf_counter_ns() - t); cpu["ort"].append(time.thread_time_ns() - c)
                for k, id in sides.items():
                    answer = rust.ask(run=id, times=reps)
                    times[k] += answer["ns"]; cpu[k] += answer["cpu_ns"]
            if lock: fcntl.flock(lock, fcntl.LOCK_UN)
            rust.p.kill()
            med = {k: statistics.median(v) / 1e6 for k, v in times.items()}
            p10 = {k: float(np.percentile(v, 10)) / 1e6 for k, v in times.items()}
            cmed = {k: statistics.median(v) / 1e6 for k, v in cpu.items()}
            row = {"case": name, "cpu_median_ms": {str(k): v for k, v in cmed.items()}, "median_ms": {str(k): v for k, v in med.items()}, "p10_ms": {str(k): v for k, v in p10.items()}, "checks": {str(k): v for k, v in checks.items()}}
            rows.append(row)
            r = lambda k: f"{cmed['ort']/cmed[k]:5.2f} (wall {med['ort']/med[k]:5.2f}, p10 {p10['ort']/p10[k]:5.2f})" if k in med else "-"
            print(f"{name:28} ORT {cmed['ort']:9.3f}  tract {cmed.get(False, float('nan')):9.3f} {r(False)} {checks.get(False)}  pass {cmed[True]:9.3f} {r(True)} {checks.get(True)}", flush=True)
    for key in ("cpu_median_ms", "median_ms", "p10_ms"):
        for side in ("False", "True"):
            for group in (".", "_b1$", "_b8$"):
                v = [row[key]["ort"] / row[key][side] for row in rows if side in row[key] and re.search(group, row["case"])]
                if v: print(f"{key} {'pass' if side == 'True' else 'tract'} {group}: geometric mean {math.exp(sum(map(math.log, v)) / len(v)):.3f} min {min(v):.2f} max {max(v):.2f} over {len(v)}")
    if args.json: Path(args.json).write_text(json.dumps(rows, indent=1))
main()
