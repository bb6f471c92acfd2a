// File: tests/network_star.h
// Network namespaces on this machine: a hub, and spokes that each hang on it by a cable of their
// own, which can be pulled and has a speed. For tests. Needs root and iproute2 (ip, and tc with
// tbf).
#pragma once

#include <signal.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <filesystem>
#include <fstream>
#include <stdexcept>
#include <string>
#include <system_error>
#include <vector>

#include "tests/child_process.h"

namespace tempo {

class NetworkStar {
 public:
  // Why there can be none here; empty: there can.
  static std::string obstacle() {
    if (::geteuid() != 0) return "network namespaces need root";
    if (!std::filesystem::exists(kIp) || !std::filesystem::exists(kTc)) {
      return "ip and tc (iproute2) are not installed";
    }
    try {
      NetworkStar(1).limit(0, 100);
    } catch (const std::exception& failure) {
      return std::string("this machine does not let them be made: ") + failure.what();
    }
    return "";
  }

  // Throws std::runtime_error.
  explicit NetworkStar(int spokes) : spokes_(spokes) {
    remove_leftovers();
    try {
      run({kIp, "netns", "add", hub()});
      run({kIp, "-n", hub(), "link", "set", "lo", "up"});
      for (int i = 0; i < spokes; ++i) add_spoke(i);
    } catch (...) {
      remove();
      throw;
    }
  }
  ~NetworkStar() { remove(); }
  NetworkStar(const NetworkStar&) = delete;
  NetworkStar& operator=(const NetworkStar&) = delete;

  // To stand in front of a command.
  std::vector<std::string> in_hub() const { return {kIp, "netns", "exec", hub()}; }
  std::vector<std::string> in_spoke(int i) const { return {kIp, "netns", "exec", spoke(i)}; }

  static std::string address(int i) { return "10.77." + std::to_string(i) + ".2"; }

  // Nobody is told: what either end sends is gone.
  void pull_cable(int i) const { set_cable(i, "down"); }
  void plug_in(int i) const { set_cable(i, "up"); }

  // Both ways, in megabytes a second.
  void limit(int i, int speed) const {
    const int burst = std::max(131072, speed * 4000);
    for (const auto& [space, device] : {std::pair(hub(), cable(i)), {spoke(i), kFarEnd}}) {
      run({kIp, "netns", "exec", space, kTc, "qdisc", "replace", "dev", device, "root", "tbf",
           "rate", std::to_string(8 * speed) + "mbit", "burst", std::to_string(burst) + "b",
           "limit", std::to_string(4 * burst + 4000000) + "b"});
    }
  }

 private:
  static constexpr const char* kIp = "/usr/sbin/ip";
  static constexpr const char* kTc = "/usr/sbin/tc";
  static constexpr const char* kPrefix = "tempo-test-";
  static constexpr const char* kFarEnd = "cable";

  static void run(const std::vector<std::string>& command) {
    if (Child(command).wait() == 0) return;
    std::string text;
    for (const std::string& word : command) text += (text.empty() ? "" : " ") + word;
    throw std::runtime_error(text + " failed");
  }

  static std::string hub() { return kPrefix + std::to_string(::getpid()) + "-hub"; }
  static std::string spoke(int i) {
    return kPrefix + std::to_string(::getpid()) + "-" + std::to_string(i);
  }
  static std::string cable(int i) { return "cable" + std::to_string(i); }

  static void add_spoke(int i) {
    run({kIp, "netns", "add", spoke(i)});
    run({kIp, "-n", hub(), "link", "add", cable(i), "type", "veth", "peer", "name", kFarEnd,
         "netns", spoke(i)});
    const std::string net = "10.77." + std::to_string(i) + ".";
    run({kIp, "-n", hub(), "addr", "add", net + "1/24", "dev", cable(i)});
    run({kIp, "-n", spoke(i), "addr", "add", net + "2/24", "dev", kFarEnd});
    run({kIp, "-n", hub(), "link", "set", cable(i), "mtu", "65535", "up"});
    run({kIp, "-n", spoke(i), "link", "set", kFarEnd, "mtu", "65535", "up"});
    run({kIp, "-n", spoke(i), "link", "set", "lo", "up"});
  }

  static void set_cable(int i, const char* state) {
    run({kIp, "-n", spoke(i), "link", "set", kFarEnd, state});
  }

  // Cables go with their namespaces.
  void remove() const {
    Child({kIp, "netns", "del", hub()}).wait();
    for (int i = 0; i < spokes_; ++i) Child({kIp, "netns", "del", spoke(i)}).wait();
  }

  // Of programs that were killed.
  static void remove_leftovers() {
    std::error_code none;
    for (const auto& entry : std::filesystem::directory_iterator("/run/netns", none)) {
      const std::string name = entry.path().filename();
      if (!name.starts_with(kPrefix)) continue;
      const int pid = std::atoi(name.c_str() + std::string(kPrefix).size());
      if (pid > 0 && ::kill(pid, 0) != 0 && errno == ESRCH)
        Child({kIp, "netns", "del", name}).wait();
    }
  }

  const int spokes_;
};

}  // namespace tempo
