"""A tokenizer of made-up words and the special tokens of a config, and the image processor's settings: enough for vLLM's multimodal path without a model's files."""
import json, sys
from tokenizers import Tokenizer, models, pre_tokenizers
folder = sys.argv[1]; c = json.load(open(folder + "/config.json"))
sp = {c["vision_start_token_id"]: "<|vision_start|>", c["vision_end_token_id"]: "<|vision_end|>", c["image_token_id"]: "<|image_pad|>", c["video_token_id"]: "<|video_pad|>"}
first = min(sp) - 9
t = Tokenizer(models.WordLevel({f"t{i}": i for i in range(first)}, unk_token="t0"))
t.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
t.add_special_tokens([sp.get(i, f"<|s{i}|>") for i in range(first, max(sp) + 1)])
for i, s in sp.items(): assert t.token_to_id(s) == i, (s, i, t.token_to_id(s))
t.save(folder + "/tokenizer.json")
json.dump({"tokenizer_class": "PreTrainedTokenizerFast", "eos_token": f"<|s{first}|>", "pad_token": f"<|s{first}|>", "model_max_length": 262144, "clean_up_tokenization_spaces": False, "image_token": "<|image_pad|>", "video_token": "<|video_pad|>"}, open(folder + "/tokenizer_config.json", "w"))
ip = {"size": {"longest_edge": 16777216, "shortest_edge": 65536}, "patch_size": 16, "temporal_patch_size": 2, "merge_size": 2, "image_mean": [.5, .5, .5], "image_std": [.5, .5, .5], "processor_class": "Qwen3VLProcessor", "image_processor_type": "Qwen2VLImageProcessorFast"}
json.dump(ip, open(folder + "/preprocessor_config.json", "w"))
json.dump({**ip, "size": {"longest_edge": 25165824, "shortest_edge": 4096}, "video_processor_type": "Qwen3VLVideoProcessor"}, open(folder + "/video_preprocessor_config.json", "w"))
