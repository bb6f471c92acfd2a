#include "tools/run_job.h"

#include <algorithm>
#include <array>
#include <cstdio>
#include <memory>
#include <string_view>
#include <utility>

#include "client/data_files.h"
#include "client/input_file.h"
#include "client/interrupt.h"
#include "client/job_client.h"
#include "client/output_file.h"
#include "client/progress_display.h"
#include "wire/unix_socket.h"

namespace tempo {
namespace {

using Output = JobClient::Output;

Error interrupted() {
  return {ErrorCode::kInterrupted, "interrupted before the job was done", "", "", "", ""};
}

class JobRun {
 public:
  explicit JobRun(const JobRequest& request)
      : request_(request), display_(stderr, ProgressDisplay::style_of(stderr)) {}

  Result<JobResult> run();

 private:
  Status prepare();
  Status connect();
  Status submit();
  Status follow();
  Result<JobResult> collect(Status status);
  Status save(const std::optional<std::string>& content, const std::string& path,
              const char* what) const;
  Error explain(Error error);

  const JobRequest& request_;
  JobSpec spec_;
  DataSource data_;
  Interrupt interrupt_;
  ProgressDisplay display_;
  std::optional<LocalSystem> system_;
  std::optional<JobClient> client_;
  std::string id_;
};

// The later file would take the place of the earlier one.
Status refuse_equal_paths(const std::string& output, const std::string& report) {
  if (output.empty() || output != report) return {};
  return Error{ErrorCode::kUsage,
               "two outputs go to one file",
               "--report",
               "another path than -o",
               report,
               ""};
}

Status JobRun::prepare() {
  spec_ = request_.spec;
  TEMPO_RETURN_IF_ERROR(refuse_equal_paths(request_.model_output, request_.report_output));
  TEMPO_RETURN_IF_ERROR(refuse_equal_paths(request_.predictions_output, request_.report_output));
  TEMPO_RETURN_IF_ERROR(check_readable(request_.model_path));
  if (!request_.data.empty()) {
    auto data = find_data(request_.data, predicts(spec_) ? JobKind::kInfer : spec_.kind);
    if (!data) return data.error();
    data_ = std::move(*data);
    spec_.data.format = data_.format;
  }
  if (const Status checked = check_job(spec_); !checked.ok()) return explain(checked.error());
  for (const std::string* path :
       {&request_.model_output, &request_.predictions_output, &request_.report_output}) {
    if (!path->empty()) TEMPO_RETURN_IF_ERROR(check_writable(*path));
  }
  return {};
}

Status JobRun::connect() {
  std::string path;
  if (request_.master.empty()) {
    auto system = LocalSystem::start(request_.local, interrupt_);
    if (!system) return system.error();
    system_.emplace(std::move(*system));
    path = system_->api_path();
  } else {
    auto address = parse_unix_address(request_.master);
    if (!address) return address.error();
    path = std::move(*address);
  }
  client_.emplace(HttpClient(path, interrupt_.fd()));
  return {};
}

// Files are read one at a time: a data set may be as large as the memory that is left.
Status JobRun::submit() {
  {
    const auto model = read_file(request_.model_path, kMaxModelFileBytes);
    if (!model) return model.error();
    if (model->empty()) {
      return Error{ErrorCode::kBadModel,
                   "the file is empty",
                   request_.model_path,
                   "a model in ONNX format",
                   "",
                   ""};
    }
    auto id = client_->create(spec_);
    if (!id) return id.error();
    id_ = std::move(*id);
    TEMPO_RETURN_IF_ERROR(client_->put_model(id_, *model));
  }
  for (const DataFile& file : data_.files) {
    const auto loaded = load_data_file(file);
    if (!loaded) return loaded.error();
    TEMPO_RETURN_IF_ERROR(client_->put_data(id_, loaded->name, loaded->bytes));
  }
  return client_->start(id_);
}

Status JobRun::follow() {
  Status stop_status;
  const auto on_wake = [&] {
    interrupt_.clear();
    if (interrupt_.count() > 1) return false;
    display_.note("stopping; once more ends it at once, without the model so far");
    stop_status = client_->stop(id_);
    return stop_status.ok();
  };
  const Status status = client_->follow(
      id_, [&](const Progress& progress) { display_.show(progress); }, on_wake);
  display_.finish();
  return stop_status.ok() ? status : stop_status;
}

Status JobRun::save(const std::optional<std::string>& content, const std::string& path,
                    const char* what) const {
  if (path.empty()) return {};
  if (content) return write_file(path, *content);
  return Error{ErrorCode::kInternal, std::string("the job made no ") + what, path, "", "", ""};
}

Result<JobResult> JobRun::collect(Status status) {
  JobResult result;
  auto report = client_->fetch(id_, Output::kReport);
  if (!report) return report.error();
  result.report_json = std::move(*report);
  const bool stopped = !status.ok() && status.error().code == ErrorCode::kInterrupted;
  if (!status.ok() && !stopped) {
    // What a failed job reports (a cheating worker, where it diverged) is worth having.
    if (result.report_json) {
      TEMPO_RETURN_IF_ERROR(save(result.report_json, request_.report_output, "report"));
    }
    return status.error();
  }
  struct Wanted {
    Output output;
    std::optional<std::string>* where;
  };
  std::optional<std::string> model;
  std::vector<Wanted> wanted = {{Output::kPlanText, &result.plan_text},
                                {Output::kPlanJson, &result.plan_json}};
  if (spec_.kind == JobKind::kTrain) wanted.push_back({Output::kModel, &model});
  if (spec_.kind == JobKind::kInfer) {
    wanted.push_back({Output::kPredictions, &result.predictions_npy});
  }
  for (const Wanted& want : wanted) {
    auto content = client_->fetch(id_, want.output);
    if (!content) return content.error();
    *want.where = std::move(*content);
  }
  // Stopped before there was anything: nothing to save, and the interruption is all to tell.
  const bool nothing = stopped && !model && !result.report_json;
  if (nothing) return status.error();
  TEMPO_RETURN_IF_ERROR(save(model, request_.model_output, "model"));
  if (result.predictions_npy || !stopped) {
    TEMPO_RETURN_IF_ERROR(save(result.predictions_npy, request_.predictions_output, "predictions"));
  }
  TEMPO_RETURN_IF_ERROR(save(result.report_json, request_.report_output, "report"));
  result.status = std::move(status);
  return result;
}

// "schedule.step_epochs" of a job is the flag --step-epochs. Other texts stay as they are.
std::string flag_of_key(const std::string& key) {
  constexpr std::array<std::pair<std::string_view, const char*>, 8> kOtherNames = {{
      {"learning_rate", "--lr"},
      {"deviation", "--std"},
      {"kind", "--schedule"},
      {"format", "--data"},
      {"tee_memory_bytes", "--tee-memory"},
      {"link_bytes_per_s", "--link"},
      {"t", "--integrity, t"},
      {"e", "--integrity, e"},
  }};
  if (key.empty() || key.find_first_not_of("abcdefghijklmnopqrstuvwxyz_.") != std::string::npos) {
    return key;
  }
  const std::string last = key.substr(key.rfind('.') + 1);
  for (const auto& [name, flag] : kOtherNames) {
    if (last == name) return flag;
  }
  std::string flag = "--" + last;
  std::replace(flag.begin(), flag.end(), '_', '-');
  return flag;
}

// The enclave knows files by the names of the job API, and the model by none; the user by paths. A
// broken connection or a lost worker often has a child's end as its cause.
Error JobRun::explain(Error error) {
  for (const DataFile& file : data_.files) {
    if (error.where != file.name && !error.where.starts_with(file.name + ",")) continue;
    error.where.replace(0, file.name.size(), file.path);
    break;
  }
  if (error.code == ErrorCode::kUsage) error.where = flag_of_key(error.where);
  const bool of_model =
      error.code == ErrorCode::kBadModel || error.code == ErrorCode::kUnsupportedModel;
  if (of_model && error.where.empty()) error.where = request_.model_path;
  const bool may_be_child = error.code == ErrorCode::kProtocol ||
                            error.code == ErrorCode::kNotFound ||
                            error.code == ErrorCode::kNoWorker;
  if (!may_be_child || !system_) return error;
  if (auto lost = system_->lost_child()) {
    lost->code = error.code == ErrorCode::kNoWorker ? ErrorCode::kNoWorker : lost->code;
    return std::move(*lost);
  }
  return error;
}

Result<JobResult> JobRun::run() {
  TEMPO_RETURN_IF_ERROR(prepare());
  TEMPO_RETURN_IF_ERROR(connect());
  Status status = submit();
  if (status.ok()) {
    status = follow();
    if (interrupt_.count() <= 1) {
      auto result = collect(status);
      return result ? std::move(result) : explain(result.error());
    }
  }
  if (interrupt_.count() > 0) {
    if (system_) system_->kill_all();
    return interrupted();
  }
  // A running enclave keeps no job of a client that failed.
  if (!system_ && !id_.empty()) (void)client_->stop(id_).ok();
  return explain(status.error());
}

}  // namespace

Result<JobResult> run_job(const JobRequest& request) {
  return JobRun(request).run();
}

}  // namespace tempo
