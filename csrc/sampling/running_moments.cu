#include "sampling/running_moments.hpp"

#include "core/cuda_launch.cuh"

namespace pyrl::sampling {
namespace {

constexpr int merge_threads = 256;  // at least as many as slices

// A block a column: its slices merged pair by pair, in an order that does not depend on timing, then into the moments.
__global__ void __launch_bounds__(merge_threads)
    merge_kernel(const Slices slices, const double* slice_mean, const double* slice_m2, const Moments moments) {
  __shared__ double count[merge_threads], mean[merge_threads], m2[merge_threads];
  const int slice = static_cast<int>(threadIdx.x);
  const std::int64_t column = blockIdx.x, i = slice * slices.columns + column;
  const bool present = slice < slices.count;
  count[slice] = present ? static_cast<double>(slices.rows_of(slice)) : 0.0;
  mean[slice] = present ? slice_mean[i] : 0.0;
  m2[slice] = present ? slice_m2[i] : 0.0;
  for (int half = merge_threads / 2; half > 0; half /= 2) {
    __syncthreads();
    const int other = slice + half;
    if (slice >= half || count[other] == 0) continue;
    merge_moments(count[slice], mean[slice], m2[slice], count[other], mean[other], m2[other]);
    count[slice] += count[other];
  }
  if (slice == 0) merge_moments(static_cast<double>(*moments.count), moments.mean(column), moments.m2(column), count[0], mean[0], m2[0]);
}

// The moments of one column of one slice, as in the CPU's blocks of rows: over deviations from its own first row.
template <class T>
struct SumSlice {
  const T* batch;
  Slices slices;
  double *mean, *m2;  // [slices, D]

  PYRL_HD void operator()(std::int64_t thread) const {
    const std::int64_t rows = slices.rows_of(thread / slices.columns);
    const double first = static_cast<double>(batch[thread]);
    double sum = 0, squares = 0;
    for (std::int64_t k = 1; k < rows; ++k) {
      const double d = static_cast<double>(batch[thread + k * slices.threads()]) - first;
      sum += d;
      squares += d * d;
    }
    const double shift = sum / static_cast<double>(rows);
    mean[thread] = first + shift;
    m2[thread] = squares - sum * shift;
  }
};

// One column of one slice. The same bits as the CPU.
template <class T>
struct NormalizeSlice {
  NormalizeArgs<T> args;
  Slices slices;

  PYRL_HD void operator()(std::int64_t thread) const {
    const std::int64_t column = thread % slices.columns, rows = slices.rows_of(thread / slices.columns);
    const double mean = args.center ? args.moments.mean(column) : 0.0;
    const double scale = inverse_deviation(*args.moments.count, args.moments.m2(column), args.epsilon);
    const float clip = static_cast<float>(args.clip);
    for (std::int64_t k = 0; k < rows; ++k) {
      const std::int64_t i = thread + k * slices.threads();
      args.out.data[i] = normalized(static_cast<double>(args.value.data[i]), mean, scale, clip);
    }
  }
};

}  // namespace

template <class T>
void update_moments_cuda(const ArrayView<const T, 2>& batch, const Moments& moments, void* space, const CudaStream& stream) {
  if (batch.size() > 0) {
    const Slices slices = Slices::of(batch.extent[0], batch.extent[1]);
    auto* mean = static_cast<double*>(space);
    double* m2 = mean + slices.threads();
    cuda::launch_elements(stream, slices.threads(), SumSlice<T>{batch.data, slices, mean, m2});
    cuda::launch(stream, slices.columns, merge_threads, merge_kernel, slices, mean, m2, moments);
  }
  add_cuda(moments.count, batch.extent[0], stream);  // after the last block has read it
}

template <class T>
void normalize_cuda(const NormalizeArgs<T>& args, const CudaStream& stream) {
  const Slices slices = Slices::of(args.value.extent[0], args.value.extent[1]);
  if (args.value.size() > 0) cuda::launch_elements(stream, slices.threads(), NormalizeSlice<T>{args, slices});
}

template void update_moments_cuda(const ArrayView<const float, 2>&, const Moments&, void*, const CudaStream&);
template void update_moments_cuda(const ArrayView<const double, 2>&, const Moments&, void*, const CudaStream&);
template void normalize_cuda(const NormalizeArgs<float>&, const CudaStream&);
template void normalize_cuda(const NormalizeArgs<double>&, const CudaStream&);

}  // namespace pyrl::sampling
