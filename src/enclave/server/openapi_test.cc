// docs/openapi.yaml and the server's routes are the same list.
#include <gtest/gtest.h>

#include <fstream>
#include <set>
#include <string>

#include "enclave/server/api.h"
#include "wire/error_json.h"

namespace tempo {
namespace {

std::string read_document() {
  std::ifstream file(TEMPO_SOURCE_DIR "/docs/openapi.yaml");
  EXPECT_TRUE(file.is_open());
  return {std::istreambuf_iterator<char>(file), {}};
}

// The document is kept in block style with two spaces a level, so that lines are enough: "  /path:"
// under "paths:", and "    method:" under a path.
std::set<std::string> documented_routes() {
  std::set<std::string> routes;
  std::ifstream file(TEMPO_SOURCE_DIR "/docs/openapi.yaml");
  std::string path;
  bool in_paths = false;
  for (std::string line; std::getline(file, line);) {
    if (!line.empty() && line[0] != ' ' && line[0] != '#') in_paths = line == "paths:";
    if (!in_paths) continue;
    if (line.starts_with("  /") && line.ends_with(":")) path = line.substr(2, line.size() - 3);
    for (const char* method : {"get", "put", "post", "delete", "patch"}) {
      if (line == "    " + std::string(method) + ":") {
        std::string upper(method);
        for (char& c : upper) c = static_cast<char>(c - 'a' + 'A');
        routes.insert(upper + " " + path);
      }
    }
  }
  return routes;
}

TEST(OpenApi, ListsExactlyTheRoutes) {
  std::set<std::string> served;
  for (const Api::Route& route : Api::routes()) {
    served.insert(std::string(route.method) + " " + std::string(route.pattern));
  }
  EXPECT_EQ(documented_routes(), served);
}

TEST(OpenApi, NamesEveryDataFileErrorAndState) {
  const std::string document = read_document();
  for (const std::string_view name : data_file_names()) {
    EXPECT_NE(document.find("- " + std::string(name) + "\n"), std::string::npos) << name;
  }
  for (int code = 1; code <= static_cast<int>(ErrorCode::kIo); ++code) {
    const std::string name(error_code_name(static_cast<ErrorCode>(code)));
    EXPECT_NE(document.find("- " + name + "\n"), std::string::npos) << name;
  }
  for (const JobState state : {JobState::kCreated, JobState::kQueued, JobState::kRunning,
                               JobState::kDone, JobState::kStopped, JobState::kFailed}) {
    const std::string name(job_state_name(state));
    EXPECT_NE(document.find("- " + name + "\n"), std::string::npos) << name;
  }
}

// Every key that the server writes for a job's spec stands in the document.
TEST(OpenApi, NamesEveryKeyOfAJob) {
  const std::string document = read_document();
  const std::string json = job_to_json(JobSpec());
  std::size_t keys = 0;
  for (std::size_t at = 0; (at = json.find("\":", at)) != std::string::npos; ++at) {
    const std::size_t begin = json.rfind('"', at - 1) + 1;
    const std::string key = json.substr(begin, at - begin);
    EXPECT_NE(document.find(" " + key + ":"), std::string::npos) << key;
    ++keys;
  }
  EXPECT_GT(keys, 20U);
}

}  // namespace
}  // namespace tempo
