"""A byte-level BPE tokenizer in Qwen's layout, trained on this repository's English, filled up to the model's vocabulary."""
import glob, json, os, sys
from tokenizers import Tokenizer, models, pre_tokenizers, decoders, trainers, Regex
src = [f for f in glob.glob("/work/main/**/*.md", recursive=True) if "third_party" not in f]
t = Tokenizer(models.BPE())
t.pre_tokenizer = pre_tokenizers.Sequence([pre_tokenizers.Split(Regex(r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"), "isolated"), pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)])
t.decoder = decoders.ByteLevel()
t.train(src, trainers.BpeTrainer(vocab_size=12000, initial_alphabet=pre_tokenizers.ByteLevel.alphabet(), show_progress=False))
j = json.loads(t.to_str()); v = j["model"]["vocab"]; n = len(v)
for i in range(n, 151643): v[f"\u0120w{i}"] = i       # words of no merge: they are only ever decoded
j["added_tokens"] = [{"id": 151643 + i, "content": s, "single_word": False, "lstrip": False, "rstrip": False, "normalized": False, "special": True} for i, s in enumerate(["<|endoftext|>", "<|im_start|>", "<|im_end|>"])]
for m in ("8b", "0.6b"):
    d = f"/tmp/nine/models/qwen3-{m}"; os.makedirs(d, exist_ok=True)
    name = {"8b": "Qwen--Qwen3-8B", "0.6b": "Qwen--Qwen3-0.6B"}[m]
    json.dump(json.load(open(f"/work/shared/data/hf_configs/{name}_config.json")), open(d + "/config.json", "w"))
    json.dump(j, open(d + "/tokenizer.json", "w"), separators=(",", ":"))
    json.dump({"tokenizer_class": "PreTrainedTokenizerFast", "eos_token": "<|im_end|>", "pad_token": "<|endoftext|>", "model_max_length": 131072, "clean_up_tokenization_spaces": False}, open(d + "/tokenizer_config.json", "w"))
print(n, len(v)); print(t.encode("The quick time of a server and the people").tokens)
