// A small shape of every operator, for tests that go through the case table.
#pragma once

#include <string>

#include "kernels/kernel_case.h"

namespace orrery::kernels {

inline CaseSpec small_spec(const std::string& op) {
  CaseSpec spec;
  spec.op = op;
  if (op.find("quantize") != std::string::npos || op.starts_with("block_gemm")) spec.dtype = "fp8-block";
  spec.m = 5;
  spec.n = 256;
  spec.k = 64;
  spec.heads = 4;
  spec.kv_heads = 2;
  spec.head_dim = 128;
  spec.experts = 8;
  spec.top_k = 2;
  spec.groups = 4;
  spec.top_groups = 2;
  spec.bytes = 4096;
  if (op.find("grouped") == 0) spec.rows = {3, 0, 5};  // moe_align reads rows as well
  spec.contexts = {5, 33};
  spec.sequences = {{5, op == "attention_prefill_cudnn" ? 0 : 3}};  // which takes whole prompts
  if (op == "index_scores") spec.heads = 32;                        // it has two forms
  spec.ranks = 2;
  return spec;
}

}  // namespace orrery::kernels
