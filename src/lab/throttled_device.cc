#include "lab/throttled_device.h"

#include <chrono>
#include <thread>

namespace tempo::lab {

Device::Time ThrottledDevice::end_of(const DeviceMatrix& a, const DeviceMatrix& b,
                                     Transpose trans_b) const {
  const double outputs = trans_b == Transpose::kYes ? b.rows() : b.cols();
  const double seconds = static_cast<double>(a.elements()) * outputs / rate_;
  return std::chrono::steady_clock::now() + std::chrono::duration_cast<std::chrono::nanoseconds>(
                                                std::chrono::duration<double>(seconds));
}

void ThrottledDevice::multiply(const DeviceMatrix& a, Transpose trans_a, const DeviceMatrix& b,
                               Transpose trans_b, bool accumulate, DeviceMatrix& out) {
  const Time end = end_of(a, b, trans_b);
  cpu_.multiply(a, trans_a, b, trans_b, accumulate, out);
  std::this_thread::sleep_until(end);
}

bool ThrottledDevice::multiply_to_host(const DeviceMatrix& a, Transpose trans_a,
                                       const DeviceMatrix& b, Transpose trans_b, std::byte* host) {
  const Time end = end_of(a, b, trans_b);
  const bool is_done = cpu_.multiply_to_host(a, trans_a, b, trans_b, host);
  std::this_thread::sleep_until(end);
  return is_done;
}

}  // namespace tempo::lab
