// cuDNN's backend API, loaded at run time, with descriptors that destroy themselves. Include from host files
// of builds with a CUDA toolkit only.
#pragma once

#include <cudnn_graph.h>

#include <array>
#include <cstdint>
#include <memory>
#include <string>
#include <vector>

namespace orrery::kernels {

struct Cudnn {
  std::string why;  // empty when everything is there
  cudnnHandle_t handle = nullptr;
  decltype(&cudnnCreate) create = nullptr;
  decltype(&cudnnSetStream) set_stream = nullptr;
  decltype(&cudnnGetErrorString) words = nullptr;
  decltype(&cudnnBackendCreateDescriptor) create_descriptor = nullptr;
  decltype(&cudnnBackendDestroyDescriptor) destroy_descriptor = nullptr;
  decltype(&cudnnBackendSetAttribute) set = nullptr;
  decltype(&cudnnBackendGetAttribute) get = nullptr;
  decltype(&cudnnBackendFinalize) finalize = nullptr;
  decltype(&cudnnBackendExecute) execute = nullptr;
};
// With a handle of the current device, made at the first call there.
const Cudnn& cudnn();

class CudnnDescriptor {
 public:
  explicit CudnnDescriptor(cudnnBackendDescriptorType_t type);
  CudnnDescriptor(const CudnnDescriptor&) = delete;
  CudnnDescriptor& operator=(const CudnnDescriptor&) = delete;
  ~CudnnDescriptor();

  cudnnBackendDescriptor_t raw() const { return descriptor_; }
  // Of the first call that failed, with what was asked for; empty when none did.
  const std::string& error() const { return error_; }

  template <class T>
  void set(cudnnBackendAttributeName_t name, cudnnBackendAttributeType_t type, const T& value) {
    set_many(name, type, 1, &value);
  }
  void set(cudnnBackendAttributeName_t name, const CudnnDescriptor& value) {
    set(name, CUDNN_TYPE_BACKEND_DESCRIPTOR, value.raw());
  }
  void set_many(cudnnBackendAttributeName_t name, cudnnBackendAttributeType_t type, std::int64_t count,
                const void* values);
  bool finalize();  // false when anything failed so far

 private:
  void note(cudnnStatus_t status, const std::string& what);

  cudnnBackendDescriptor_t descriptor_ = nullptr;
  std::string error_;
};

// A graph of operations over four-dimensional tensors.
class CudnnGraph {
 public:
  using Dimensions = std::array<std::int64_t, 4>;
  using Tensor = const CudnnDescriptor*;

  // Tensors that a caller has memory for carry ids; virtual ones only exist between operations.
  Tensor tensor(std::int64_t id, cudnnDataType_t type, const Dimensions& extent, const Dimensions& stride);
  Tensor value(std::int64_t id, cudnnDataType_t type);  // one number, from host memory
  Tensor between(cudnnDataType_t type, const Dimensions& extent);

  void matmul(Tensor a, Tensor b, Tensor c);
  void pointwise(cudnnPointwiseMode_t mode, cudnnDataType_t precision, Tensor x, Tensor b, Tensor y,
                 Tensor choose = nullptr);
  void index(std::int64_t axis, Tensor like, Tensor y);
  void reduce(cudnnReduceTensorOp_t operation, Tensor x, Tensor y);

  // An execution plan of the first engine that takes the graph; null with a reason.
  std::unique_ptr<CudnnDescriptor> plan(std::string& why);

 private:
  CudnnDescriptor& keep(std::vector<std::unique_ptr<CudnnDescriptor>>& where,
                        cudnnBackendDescriptorType_t type);
  Tensor finish_tensor(CudnnDescriptor& made, std::int64_t id, cudnnDataType_t type, const Dimensions& extent,
                       const Dimensions& stride, bool is_virtual, bool by_value);
  void finish(CudnnDescriptor& made);

  std::vector<std::unique_ptr<CudnnDescriptor>> tensors_, details_, operations_;
  std::int64_t next_virtual_ = 1000;
  std::string error_;
};

}  // namespace orrery::kernels
