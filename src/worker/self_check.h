// File: worker/self_check.h
// Whether a device computes what it should.
#pragma once

#include "base/error.h"
#include "worker/device.h"

namespace tempo {

// A small product of each transpose, against sums in double precision. Error kInternal, or
// kOutOfMemory when the device has no memory even for that.
Status check_device(Device& device);

}  // namespace tempo
