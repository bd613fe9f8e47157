// NVIDIA's and AMD's libraries, loaded when first asked for: a binary must start where they are missing.
// NVIDIA's headers give the types at build time, AMD's are written down where they are called
// (kernels/hipblaslt.cpp, kernels/rccl.cpp); dlopen gives the functions.
//
// AITER is not among them: its kernels are pybind11 modules that take torch tensors, or code objects whose
// arguments are private to those modules (ROCm/aiter csrc/pybind, hsa/): there is no C entry to load.
#pragma once

#include <string>

namespace orrery::kernels {

enum class Vendor : unsigned char { cublas_lt, cudnn, nccl, nvml, hip, hipblas_lt, rccl };

class VendorLibrary {
 public:
  // Tries the library's versioned names as the loader finds them (LD_LIBRARY_PATH, ld.so.conf), then in
  // $CUDA_HOME/lib64 and /usr/local/cuda/lib64, or $ROCM_PATH/lib and /opt/rocm/lib.
  explicit VendorLibrary(Vendor vendor);

  bool loaded() const { return handle_ != nullptr; }
  const std::string& why() const { return why_; }    // why it is not loaded: the loader's words
  const std::string& file() const { return file_; }  // the name that worked

  void* symbol(const char* name) const;  // null when the library or the symbol is missing

  // `auto* create = library.function<decltype(cublasLtCreate)>("cublasLtCreate");`
  template <class F>
  F* function(const char* name) const {
    return reinterpret_cast<F*>(symbol(name));
  }

  // The same into a pointer. The first that is missing is said in `why`, unless that says something already.
  template <class F>
  void take(F& function, const char* name, std::string& why) const {
    function = reinterpret_cast<F>(symbol(name));
    if (function == nullptr && why.empty()) why = loaded() ? file() + " lacks " + name : this->why();
  }

 private:
  void* handle_ = nullptr;
  std::string file_, why_;
};

// One for the process, loaded at the first call and never unloaded.
const VendorLibrary& vendor_library(Vendor vendor);

}  // namespace orrery::kernels
