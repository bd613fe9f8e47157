#include "kernels/cudnn_attention.h"

#include <limits>

#include "kernels/cudnn_graph.h"

namespace orrery::kernels {

namespace {

enum Id : std::int64_t { queries_id = 1, keys_id, values_id, out_id, scale_id, minus_infinity_id };

class Plan final : public CudnnAttention {
 public:
  explicit Plan(const CudnnAttentionShape& shape) : scale_(shape.softmax_scale) {}

  bool build(const CudnnAttentionShape& s, std::string& why) {
    CudnnGraph graph;
    const std::int64_t d = s.head_dim;
    const CudnnGraph::Dimensions square = {s.sequences, s.heads, s.tokens, s.tokens};
    const CudnnGraph::Dimensions column = {s.sequences, s.heads, s.tokens, 1};
    const CudnnGraph::Dimensions rows = {s.sequences, s.heads, s.tokens, d};
    const CudnnGraph::Dimensions rows_stride = {s.tokens * s.heads * d, d, s.heads * d, 1};
    const auto queries = graph.tensor(queries_id, CUDNN_DATA_BFLOAT16, rows, rows_stride);
    const auto out = graph.tensor(out_id, CUDNN_DATA_BFLOAT16, rows, rows_stride);
    const auto keys = graph.tensor(keys_id, CUDNN_DATA_BFLOAT16, {s.sequences, s.kv_heads, d, s.tokens},
                                   {s.kv_sequence_stride, d, 1, s.kv_heads * d});
    const auto values = graph.tensor(values_id, CUDNN_DATA_BFLOAT16, {s.sequences, s.kv_heads, s.tokens, d},
                                     {s.kv_sequence_stride, d, s.kv_heads * d, 1});
    const auto products = graph.between(CUDNN_DATA_FLOAT, square);
    graph.matmul(queries, keys, products);
    const auto scaled = graph.between(CUDNN_DATA_FLOAT, square);
    graph.pointwise(CUDNN_POINTWISE_MUL, CUDNN_DATA_FLOAT, products, graph.value(scale_id, CUDNN_DATA_FLOAT),
                    scaled);
    const auto masked = mask(graph, scaled, square);
    const auto largest = graph.between(CUDNN_DATA_FLOAT, column);
    graph.reduce(CUDNN_REDUCE_TENSOR_MAX, masked, largest);
    const auto shifted = graph.between(CUDNN_DATA_FLOAT, square);
    graph.pointwise(CUDNN_POINTWISE_SUB, CUDNN_DATA_FLOAT, masked, largest, shifted);
    const auto exponentials = graph.between(CUDNN_DATA_FLOAT, square);
    graph.pointwise(CUDNN_POINTWISE_EXP, CUDNN_DATA_FLOAT, shifted, nullptr, exponentials);
    const auto sums = graph.between(CUDNN_DATA_FLOAT, column);
    graph.reduce(CUDNN_REDUCE_TENSOR_ADD, exponentials, sums);
    // Nobody asks for the logarithm of the sums, but the engines know the graph only with it.
    const auto logarithms = graph.between(CUDNN_DATA_FLOAT, column);
    graph.pointwise(CUDNN_POINTWISE_LOG, CUDNN_DATA_FLOAT, sums, nullptr, logarithms);
    graph.pointwise(CUDNN_POINTWISE_ADD, CUDNN_DATA_FLOAT, largest, logarithms,
                    graph.between(CUDNN_DATA_FLOAT, column));
    const auto weights = graph.between(CUDNN_DATA_BFLOAT16, square);
    graph.pointwise(CUDNN_POINTWISE_DIV, CUDNN_DATA_FLOAT, exponentials, sums, weights);
    graph.matmul(weights, values, out);
    plan_ = graph.plan(why);
    if (plan_ == nullptr) return false;
    std::int64_t count = 0;
    return cudnn().get(plan_->raw(), CUDNN_ATTR_EXECUTION_PLAN_WORKSPACE_SIZE, CUDNN_TYPE_INT64, 1, &count,
                       &workspace_) == CUDNN_STATUS_SUCCESS;
  }

  std::size_t workspace_bytes() const override { return static_cast<std::size_t>(workspace_); }

  bool launch(const void* queries, const void* keys, const void* values, void* out, void* workspace,
              void* stream, std::string& why) override {
    std::vector<std::int64_t> ids = {queries_id, keys_id, values_id, out_id, scale_id, minus_infinity_id};
    std::vector<const void*> pointers = {queries, keys, values, out, &scale_, &minus_infinity_};
    CudnnDescriptor pack(CUDNN_BACKEND_VARIANT_PACK_DESCRIPTOR);
    const auto count = static_cast<std::int64_t>(ids.size());
    pack.set_many(CUDNN_ATTR_VARIANT_PACK_UNIQUE_IDS, CUDNN_TYPE_INT64, count, ids.data());
    pack.set_many(CUDNN_ATTR_VARIANT_PACK_DATA_POINTERS, CUDNN_TYPE_VOID_PTR, count, pointers.data());
    pack.set(CUDNN_ATTR_VARIANT_PACK_WORKSPACE, CUDNN_TYPE_VOID_PTR, workspace);
    if (!pack.finalize()) {
      why = "cuDNN's variant pack: " + pack.error();
      return false;
    }
    cudnnStatus_t status = cudnn().set_stream(cudnn().handle, static_cast<cudaStream_t>(stream));
    if (status == CUDNN_STATUS_SUCCESS) status = cudnn().execute(cudnn().handle, plan_->raw(), pack.raw());
    if (status != CUDNN_STATUS_SUCCESS) why = std::string("cuDNN: ") + cudnn().words(status);
    return status == CUDNN_STATUS_SUCCESS;
  }

 private:
  // −∞ where the token's index is beyond the row's.
  static CudnnGraph::Tensor mask(CudnnGraph& graph, CudnnGraph::Tensor scores,
                                 const CudnnGraph::Dimensions& square) {
    const auto row = graph.between(CUDNN_DATA_INT32, square);
    graph.index(2, scores, row);
    const auto column = graph.between(CUDNN_DATA_INT32, square);
    graph.index(3, scores, column);
    const auto seen = graph.between(CUDNN_DATA_BOOLEAN, square);
    graph.pointwise(CUDNN_POINTWISE_CMP_GE, CUDNN_DATA_BOOLEAN, row, column, seen);
    const auto masked = graph.between(CUDNN_DATA_FLOAT, square);
    graph.pointwise(CUDNN_POINTWISE_BINARY_SELECT, CUDNN_DATA_FLOAT, scores,
                    graph.value(minus_infinity_id, CUDNN_DATA_FLOAT), masked, seen);
    return masked;
  }

  float scale_, minus_infinity_ = -std::numeric_limits<float>::infinity();
  std::int64_t workspace_ = 0;
  std::unique_ptr<CudnnDescriptor> plan_;
};

}  // namespace

std::unique_ptr<CudnnAttention> plan_cudnn_attention(const CudnnAttentionShape& shape, std::string& why) {
  if (!cudnn().why.empty()) {
    why = cudnn().why;
    return nullptr;
  }
  auto plan = std::make_unique<Plan>(shape);
  if (!plan->build(shape, why)) return nullptr;
  return plan;
}

}  // namespace orrery::kernels
