#include "wire/tamper.h"

#include <cmath>
#include <cstdio>
#include <nlohmann/json.hpp>

namespace tempo {
namespace {

using Json = nlohmann::ordered_json;

Json finite(double value) {
  return std::isfinite(value) ? Json(value) : Json();
}

std::string range_text(std::int64_t begin, std::int64_t end) {
  return std::to_string(begin) + " to " + std::to_string(end - 1);
}

std::string size_text(double value) {
  char text[32];
  std::snprintf(text, sizeof(text), "%.2g", value);
  return text;
}

}  // namespace

void add_tamper(const TamperRecord& tamper, Json& object) {
  object["product"] = tamper.product;
  object["instance"] = tamper.instance;
  object["positions"] = {tamper.positions_begin, tamper.positions_end};
  object["out_features"] = {tamper.features_begin, tamper.features_end};
  object["rows"] = tamper.rows;
  object["refused_rows"] = tamper.refused_rows;
  object["rounds"] = tamper.rounds;
  object["deviation"] = finite(tamper.deviation);
  object["tolerance"] = finite(tamper.tolerance);
}

std::string tamper_text(const TamperRecord& tamper) {
  const std::string instance =
      tamper.instance > 0 ? ", instance " + std::to_string(tamper.instance) : "";
  return tamper.product + " product" + instance + ", positions " +
         range_text(tamper.positions_begin, tamper.positions_end) + " by out-features " +
         range_text(tamper.features_begin, tamper.features_end) + ": " +
         std::to_string(tamper.refused_rows) + " of " + std::to_string(tamper.rows) +
         " rows off by up to " + size_text(tamper.deviation) + " of the rms, where " +
         size_text(tamper.tolerance) + " is allowed";
}

}  // namespace tempo
