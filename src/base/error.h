// File: base/error.h
// Errors are values. An Error says what went wrong, where, what was expected, what was got, and
// what to do next; it prints as one line. Result<T> and Status carry a value or an Error.
// Thread safety: plain values.
#pragma once

#include <optional>
#include <string>
#include <string_view>
#include <utility>
#include <variant>

namespace tempo {

// Also the exit code of every program (docs/reference.md lists them).
enum class ErrorCode : int {
  kInternal = 1,          // a bug in Tempo: please report it
  kUsage = 2,             // a flag, job file or combination of them that makes no sense
  kNotFound = 3,          // a file, program or socket is missing or unreadable
  kBadModel = 4,          // not ONNX, or an ONNX file that contradicts itself
  kUnsupportedModel = 5,  // operators, types or shapes that Tempo cannot train
  kBadData = 6,           // truncated, oversized or mismatched data, a label out of range
  kNoWorker = 7,          // no worker could be reached or started
  kOutOfMemory = 8,       // the enclave's or a worker's memory does not suffice
  kTampered = 9,          // a worker returned a wrong result and the policy says abort
  kInterrupted = 10,      // stopped by the user; what was asked for so far is saved
  kProtocol = 11,         // a peer broke the protocol
  kDiverged = 12,         // the loss is not a number
  kIo = 13,               // a file could not be written
};

std::string_view error_code_name(ErrorCode code);

struct Error {
  ErrorCode code = ErrorCode::kInternal;
  std::string what{};   // what went wrong
  std::string where{};  // file, tensor, node, flag; may be empty, as may the following
  std::string expected{};
  std::string got{};
  std::string next_step{};  // what the user can do

  // "what; where: W; expected E, got G; next: N", without control characters from outside.
  std::string one_line() const;
};

// Usage: if (auto r = f(); !r) return r.error();
template <class T>
class [[nodiscard]] Result {
 public:
  Result(T value) : state_(std::in_place_index<0>, std::move(value)) {}      // NOLINT: implicit
  Result(Error error) : state_(std::in_place_index<1>, std::move(error)) {}  // NOLINT: implicit

  bool ok() const { return state_.index() == 0; }
  explicit operator bool() const { return ok(); }
  // Precondition of value(), * and ->: ok(). Precondition of error(): !ok().
  T& value() & { return std::get<0>(state_); }
  const T& value() const& { return std::get<0>(state_); }
  T&& value() && { return std::get<0>(std::move(state_)); }
  T& operator*() & { return value(); }
  const T& operator*() const& { return value(); }
  T&& operator*() && { return std::move(*this).value(); }
  T* operator->() { return &value(); }
  const T* operator->() const { return &value(); }
  const Error& error() const { return std::get<1>(state_); }

 private:
  std::variant<T, Error> state_;
};

class [[nodiscard]] Status {
 public:
  Status() = default;
  Status(Error error) : error_(std::move(error)) {}  // NOLINT: implicit

  bool ok() const { return !error_.has_value(); }
  explicit operator bool() const { return ok(); }
  const Error& error() const { return *error_; }

 private:
  std::optional<Error> error_;
};

// For programmer errors only, never for input. Stays on in release builds.
#define TEMPO_ASSERT(condition)                                                  \
  do {                                                                           \
    if (!(condition)) ::tempo::assertion_failed(#condition, __FILE__, __LINE__); \
  } while (false)

[[noreturn]] void assertion_failed(const char* condition, const char* file, int line);

// if (Status s = expr; !s.ok()) return s.error();
#define TEMPO_RETURN_IF_ERROR(expr)                                   \
  do {                                                                \
    if (auto status_ = (expr); !status_.ok()) return status_.error(); \
  } while (false)

}  // namespace tempo
