#include "kernels/vendor_library.h"

#include <dlfcn.h>

#include <cstdlib>
#include <vector>

namespace orrery::kernels {

namespace {

// Newest first. A library of another major version has other prototypes than the headers we compiled with, so
// an unversioned name is never tried.
std::vector<std::string> names_of(Vendor vendor) {
  switch (vendor) {
    case Vendor::cublas_lt: return {"libcublasLt.so.13"};
    case Vendor::cudnn: return {"libcudnn.so.9"};
    case Vendor::nccl: return {"libnccl.so.2"};
    case Vendor::nvml: return {"libnvidia-ml.so.1"};
    // ROCm 7 and 6: what is called of them has not changed in between.
    case Vendor::hip: return {"libamdhip64.so.7", "libamdhip64.so.6"};
    case Vendor::hipblas_lt: return {"libhipblaslt.so.1", "libhipblaslt.so.0"};
    case Vendor::rccl: return {"librccl.so.1"};
  }
  return {};
}

std::vector<std::string> folders(Vendor vendor) {
  const bool rocm = vendor == Vendor::hip || vendor == Vendor::hipblas_lt || vendor == Vendor::rccl;
  std::vector<std::string> found = {""};
  if (const char* home = std::getenv(rocm ? "ROCM_PATH" : "CUDA_HOME"))
    found.push_back(std::string(home) + (rocm ? "/lib/" : "/lib64/"));
  found.emplace_back(rocm ? "/opt/rocm/lib/" : "/usr/local/cuda/lib64/");
  return found;
}

}  // namespace

VendorLibrary::VendorLibrary(Vendor vendor) {
  for (const std::string& name : names_of(vendor)) {
    for (const std::string& folder : folders(vendor)) {
      handle_ = dlopen((folder + name).c_str(), RTLD_NOW | RTLD_LOCAL);
      if (handle_ != nullptr) {
        file_ = folder + name;
        why_.clear();
        return;
      }
      if (why_.empty()) why_ = dlerror();
    }
  }
}

void* VendorLibrary::symbol(const char* name) const {
  return handle_ != nullptr ? dlsym(handle_, name) : nullptr;
}

const VendorLibrary& vendor_library(Vendor vendor) {
  // Each in a static of its own: asking for one must not load the others (cuDNN takes a second).
  switch (vendor) {
    case Vendor::cublas_lt: {
      static const VendorLibrary library(Vendor::cublas_lt);
      return library;
    }
    case Vendor::cudnn: {
      static const VendorLibrary library(Vendor::cudnn);
      return library;
    }
    case Vendor::nccl: {
      static const VendorLibrary library(Vendor::nccl);
      return library;
    }
    case Vendor::hip: {
      static const VendorLibrary library(Vendor::hip);
      return library;
    }
    case Vendor::hipblas_lt: {
      static const VendorLibrary library(Vendor::hipblas_lt);
      return library;
    }
    case Vendor::rccl: {
      static const VendorLibrary library(Vendor::rccl);
      return library;
    }
    case Vendor::nvml: break;
  }
  static const VendorLibrary library(Vendor::nvml);
  return library;
}

}  // namespace orrery::kernels
