// File: client/job_client.h
// The job API as calls. Errors of the enclave come back as they are; besides them, kProtocol and
// kNotFound of client/http_client.h, and kInterrupted.
// Thread safety: one thread.
#pragma once

#include <cstddef>
#include <functional>
#include <optional>
#include <span>
#include <string>

#include "base/error.h"
#include "client/http_client.h"
#include "wire/job.h"
#include "wire/progress.h"

namespace tempo {

class JobClient {
 public:
  explicit JobClient(HttpClient http) : http_(std::move(http)) {}

  Result<std::string> health() const;  // the enclave's version
  Result<std::string> create(const JobSpec& spec) const;
  Status put_model(const std::string& id, std::span<const std::byte> bytes) const;
  Status put_data(const std::string& id, const std::string& name,
                  std::span<const std::byte> bytes) const;
  Status start(const std::string& id) const;
  Status stop(const std::string& id) const;

  // Returns when the job has ended: kInterrupted when it was stopped. on_wake as in
  // HttpClient::stream(); when it returns false, so does this, with kInterrupted.
  Status follow(const std::string& id, const std::function<void(const Progress&)>& on_progress,
                const std::function<bool()>& on_wake) const;

  enum class Output { kModel, kReport, kPredictions, kPlanText, kPlanJson };
  // Nothing where the job made none.
  Result<std::optional<std::string>> fetch(const std::string& id, Output output) const;

 private:
  Result<HttpResponse> call(const HttpRequest& request) const;

  HttpClient http_;
};

}  // namespace tempo
