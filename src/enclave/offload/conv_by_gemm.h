// File: enclave/offload/conv_by_gemm.h
// Convolutions as im2col and gemm(), a block of positions at a time: for shapes that oneDNN has no
// fast kernel for. Channels last on both sides; weights are (O, kh, kw, I). Of several groups, each
// is copied out and done as a convolution of its own: right, not fast.
// Thread safety: free functions; the pool serves one caller at a time.
#pragma once

#include "base/thread_pool.h"
#include "enclave/offload/linear.h"

namespace tempo {

// bias: m values, or null.
void conv_forward_by_gemm(ThreadPool& pool, const ConvGeometry& geometry, const float* input,
                          const float* weights, const float* bias, float* output);
void conv_backward_weights_by_gemm(ThreadPool& pool, const ConvGeometry& geometry,
                                   const float* input, const float* d_output, float* d_weights);
void conv_backward_input_by_gemm(ThreadPool& pool, const ConvGeometry& geometry,
                                 const float* weights, const float* d_output, float* d_input);

}  // namespace tempo
