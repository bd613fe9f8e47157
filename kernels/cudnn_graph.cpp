#include "kernels/cudnn_graph.h"

#include <cuda_runtime_api.h>

#include <map>

#include "kernels/vendor_library.h"

namespace orrery::kernels {

namespace {

std::unique_ptr<Cudnn> load() {
  auto made = std::make_unique<Cudnn>();
  Cudnn& c = *made;
  const VendorLibrary& library = vendor_library(Vendor::cudnn);
  library.take(c.create, "cudnnCreate", c.why);
  library.take(c.set_stream, "cudnnSetStream", c.why);
  library.take(c.words, "cudnnGetErrorString", c.why);
  library.take(c.create_descriptor, "cudnnBackendCreateDescriptor", c.why);
  library.take(c.destroy_descriptor, "cudnnBackendDestroyDescriptor", c.why);
  library.take(c.set, "cudnnBackendSetAttribute", c.why);
  library.take(c.get, "cudnnBackendGetAttribute", c.why);
  library.take(c.finalize, "cudnnBackendFinalize", c.why);
  library.take(c.execute, "cudnnBackendExecute", c.why);
  if (!c.why.empty()) return made;
  const cudnnStatus_t status = c.create(&c.handle);
  if (status != CUDNN_STATUS_SUCCESS) c.why = std::string("cudnnCreate: ") + c.words(status);
  return made;
}

}  // namespace

const Cudnn& cudnn() {
  static std::map<int, std::unique_ptr<Cudnn>> by_device;
  int device = 0;
  if (cudaGetDevice(&device) != cudaSuccess) device = 0;
  std::unique_ptr<Cudnn>& found = by_device[device];
  if (!found) found = load();
  return *found;
}

CudnnDescriptor::CudnnDescriptor(cudnnBackendDescriptorType_t type) {
  note(cudnn().create_descriptor(type, &descriptor_), "create descriptor " + std::to_string(type));
}

CudnnDescriptor::~CudnnDescriptor() {
  if (descriptor_ != nullptr) cudnn().destroy_descriptor(descriptor_);
}

void CudnnDescriptor::set_many(cudnnBackendAttributeName_t name, cudnnBackendAttributeType_t type,
                               std::int64_t count, const void* values) {
  if (error_.empty())
    note(cudnn().set(descriptor_, name, type, count, values), "set attribute " + std::to_string(name));
}

bool CudnnDescriptor::finalize() {
  if (error_.empty()) note(cudnn().finalize(descriptor_), "finalize");
  return error_.empty();
}

void CudnnDescriptor::note(cudnnStatus_t status, const std::string& what) {
  if (status != CUDNN_STATUS_SUCCESS && error_.empty()) error_ = what + ": " + cudnn().words(status);
}

CudnnDescriptor& CudnnGraph::keep(std::vector<std::unique_ptr<CudnnDescriptor>>& where,
                                  cudnnBackendDescriptorType_t type) {
  where.push_back(std::make_unique<CudnnDescriptor>(type));
  return *where.back();
}

void CudnnGraph::finish(CudnnDescriptor& made) {
  if (!made.finalize() && error_.empty()) {
    error_ = "operation " + std::to_string(operations_.size()) + ", tensor " +
             std::to_string(tensors_.size()) + ": " + made.error();
  }
}

CudnnGraph::Tensor CudnnGraph::finish_tensor(CudnnDescriptor& made, std::int64_t id, cudnnDataType_t type,
                                             const Dimensions& extent, const Dimensions& stride,
                                             bool is_virtual, bool by_value) {
  made.set(CUDNN_ATTR_TENSOR_UNIQUE_ID, CUDNN_TYPE_INT64, id);
  made.set(CUDNN_ATTR_TENSOR_DATA_TYPE, CUDNN_TYPE_DATA_TYPE, type);
  made.set_many(CUDNN_ATTR_TENSOR_DIMENSIONS, CUDNN_TYPE_INT64, 4, extent.data());
  made.set_many(CUDNN_ATTR_TENSOR_STRIDES, CUDNN_TYPE_INT64, 4, stride.data());
  made.set(CUDNN_ATTR_TENSOR_BYTE_ALIGNMENT, CUDNN_TYPE_INT64, std::int64_t{16});
  made.set(CUDNN_ATTR_TENSOR_IS_VIRTUAL, CUDNN_TYPE_BOOLEAN, is_virtual);
  made.set(CUDNN_ATTR_TENSOR_IS_BY_VALUE, CUDNN_TYPE_BOOLEAN, by_value);
  finish(made);
  return &made;
}

CudnnGraph::Tensor CudnnGraph::tensor(std::int64_t id, cudnnDataType_t type, const Dimensions& extent,
                                      const Dimensions& stride) {
  return finish_tensor(keep(tensors_, CUDNN_BACKEND_TENSOR_DESCRIPTOR), id, type, extent, stride, false,
                       false);
}

CudnnGraph::Tensor CudnnGraph::value(std::int64_t id, cudnnDataType_t type) {
  const Dimensions one = {1, 1, 1, 1};
  return finish_tensor(keep(tensors_, CUDNN_BACKEND_TENSOR_DESCRIPTOR), id, type, one, one, false, true);
}

CudnnGraph::Tensor CudnnGraph::between(cudnnDataType_t type, const Dimensions& extent) {
  const Dimensions packed = {extent[1] * extent[2] * extent[3], extent[2] * extent[3], extent[3], 1};
  return finish_tensor(keep(tensors_, CUDNN_BACKEND_TENSOR_DESCRIPTOR), next_virtual_++, type, extent, packed,
                       true, false);
}

void CudnnGraph::matmul(Tensor a, Tensor b, Tensor c) {
  CudnnDescriptor& how = keep(details_, CUDNN_BACKEND_MATMUL_DESCRIPTOR);
  how.set(CUDNN_ATTR_MATMUL_COMP_TYPE, CUDNN_TYPE_DATA_TYPE, CUDNN_DATA_FLOAT);
  finish(how);
  CudnnDescriptor& operation = keep(operations_, CUDNN_BACKEND_OPERATION_MATMUL_DESCRIPTOR);
  operation.set(CUDNN_ATTR_OPERATION_MATMUL_ADESC, *a);
  operation.set(CUDNN_ATTR_OPERATION_MATMUL_BDESC, *b);
  operation.set(CUDNN_ATTR_OPERATION_MATMUL_CDESC, *c);
  operation.set(CUDNN_ATTR_OPERATION_MATMUL_DESC, how);
  finish(operation);
}

void CudnnGraph::pointwise(cudnnPointwiseMode_t mode, cudnnDataType_t precision, Tensor x, Tensor b, Tensor y,
                           Tensor choose) {
  CudnnDescriptor& how = keep(details_, CUDNN_BACKEND_POINTWISE_DESCRIPTOR);
  how.set(CUDNN_ATTR_POINTWISE_MODE, CUDNN_TYPE_POINTWISE_MODE, mode);
  how.set(CUDNN_ATTR_POINTWISE_MATH_PREC, CUDNN_TYPE_DATA_TYPE, precision);
  finish(how);
  CudnnDescriptor& operation = keep(operations_, CUDNN_BACKEND_OPERATION_POINTWISE_DESCRIPTOR);
  operation.set(CUDNN_ATTR_OPERATION_POINTWISE_PW_DESCRIPTOR, how);
  operation.set(CUDNN_ATTR_OPERATION_POINTWISE_XDESC, *x);
  if (b != nullptr) operation.set(CUDNN_ATTR_OPERATION_POINTWISE_BDESC, *b);
  if (choose != nullptr) operation.set(CUDNN_ATTR_OPERATION_POINTWISE_TDESC, *choose);
  operation.set(CUDNN_ATTR_OPERATION_POINTWISE_YDESC, *y);
  finish(operation);
}

void CudnnGraph::index(std::int64_t axis, Tensor like, Tensor y) {
  CudnnDescriptor& how = keep(details_, CUDNN_BACKEND_POINTWISE_DESCRIPTOR);
  how.set(CUDNN_ATTR_POINTWISE_MODE, CUDNN_TYPE_POINTWISE_MODE, CUDNN_POINTWISE_GEN_INDEX);
  how.set(CUDNN_ATTR_POINTWISE_MATH_PREC, CUDNN_TYPE_DATA_TYPE, CUDNN_DATA_FLOAT);
  how.set(CUDNN_ATTR_POINTWISE_AXIS, CUDNN_TYPE_INT64, axis);
  finish(how);
  CudnnDescriptor& operation = keep(operations_, CUDNN_BACKEND_OPERATION_POINTWISE_DESCRIPTOR);
  operation.set(CUDNN_ATTR_OPERATION_POINTWISE_PW_DESCRIPTOR, how);
  operation.set(CUDNN_ATTR_OPERATION_POINTWISE_XDESC, *like);
  operation.set(CUDNN_ATTR_OPERATION_POINTWISE_YDESC, *y);
  finish(operation);
}

void CudnnGraph::reduce(cudnnReduceTensorOp_t operator_, Tensor x, Tensor y) {
  CudnnDescriptor& how = keep(details_, CUDNN_BACKEND_REDUCTION_DESCRIPTOR);
  how.set(CUDNN_ATTR_REDUCTION_OPERATOR, CUDNN_TYPE_REDUCTION_OPERATOR_TYPE, operator_);
  how.set(CUDNN_ATTR_REDUCTION_COMP_TYPE, CUDNN_TYPE_DATA_TYPE, CUDNN_DATA_FLOAT);
  finish(how);
  CudnnDescriptor& operation = keep(operations_, CUDNN_BACKEND_OPERATION_REDUCTION_DESCRIPTOR);
  operation.set(CUDNN_ATTR_OPERATION_REDUCTION_XDESC, *x);
  operation.set(CUDNN_ATTR_OPERATION_REDUCTION_YDESC, *y);
  operation.set(CUDNN_ATTR_OPERATION_REDUCTION_DESC, how);
  finish(operation);
}

std::unique_ptr<CudnnDescriptor> CudnnGraph::plan(std::string& why) {
  why = error_;
  if (!error_.empty()) return nullptr;
  CudnnDescriptor graph(CUDNN_BACKEND_OPERATIONGRAPH_DESCRIPTOR);
  std::vector<cudnnBackendDescriptor_t> operations;
  for (const auto& operation : operations_) operations.push_back(operation->raw());
  graph.set_many(CUDNN_ATTR_OPERATIONGRAPH_OPS, CUDNN_TYPE_BACKEND_DESCRIPTOR,
                 static_cast<std::int64_t>(operations.size()), operations.data());
  graph.set(CUDNN_ATTR_OPERATIONGRAPH_HANDLE, CUDNN_TYPE_HANDLE, cudnn().handle);
  if (!graph.finalize()) {
    why = "cuDNN's operation graph: " + graph.error();
    return nullptr;
  }
  CudnnDescriptor heuristic(CUDNN_BACKEND_ENGINEHEUR_DESCRIPTOR);
  heuristic.set(CUDNN_ATTR_ENGINEHEUR_OPERATION_GRAPH, graph);
  heuristic.set(CUDNN_ATTR_ENGINEHEUR_MODE, CUDNN_TYPE_HEUR_MODE, CUDNN_HEUR_MODE_A);
  constexpr std::int64_t most = 8;
  std::vector<std::unique_ptr<CudnnDescriptor>> configurations;
  std::vector<cudnnBackendDescriptor_t> raw;
  for (std::int64_t i = 0; i < most; ++i)
    raw.push_back(keep(configurations, CUDNN_BACKEND_ENGINECFG_DESCRIPTOR).raw());
  std::int64_t found = 0;
  if (!heuristic.finalize() ||
      cudnn().get(heuristic.raw(), CUDNN_ATTR_ENGINEHEUR_RESULTS, CUDNN_TYPE_BACKEND_DESCRIPTOR, most, &found,
                  raw.data()) != CUDNN_STATUS_SUCCESS) {
    why = "cuDNN's heuristic: " + (heuristic.error().empty() ? "no results" : heuristic.error());
    return nullptr;
  }
  why = "cuDNN has no engine for this graph";
  for (std::int64_t i = 0; i < found && i < most; ++i) {
    auto plan = std::make_unique<CudnnDescriptor>(CUDNN_BACKEND_EXECUTION_PLAN_DESCRIPTOR);
    plan->set(CUDNN_ATTR_EXECUTION_PLAN_HANDLE, CUDNN_TYPE_HANDLE, cudnn().handle);
    plan->set(CUDNN_ATTR_EXECUTION_PLAN_ENGINE_CONFIG, *configurations[static_cast<std::size_t>(i)]);
    if (plan->finalize()) return plan;
    why = "no engine of cuDNN takes the graph: " + plan->error();
  }
  return nullptr;
}

}  // namespace orrery::kernels
