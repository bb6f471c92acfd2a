#include "client/event_stream.h"

#include <gtest/gtest.h>

#include <utility>
#include <vector>

namespace tempo {
namespace {

using Events = std::vector<std::pair<std::string, std::string>>;

Events parse(std::string_view text, std::size_t piece) {
  Events events;
  EventStreamParser parser;
  while (!text.empty()) {
    const auto status = parser.feed(text.substr(0, piece), [&](const auto& name, const auto& data) {
      events.emplace_back(name, data);
    });
    EXPECT_TRUE(status.ok());
    text.remove_prefix(std::min(piece, text.size()));
  }
  return events;
}

TEST(EventStream, ReadsEventsInPiecesOfAnySize) {
  const std::string text =
      ": waiting\n\nevent: progress\ndata: {\"step\":1}\n\nevent: x\r\ndata:a\r\ndata: b\r\n\r\n"
      "data: no name\n\nevent: no data\n\ndata: not finished\n";
  const Events expected = {{"progress", "{\"step\":1}"}, {"x", "a\nb"}, {"message", "no name"}};
  for (const std::size_t piece : {1U, 2U, 3U, 7U, 1000U}) EXPECT_EQ(parse(text, piece), expected);
}

TEST(EventStream, RefusesAnEventWithoutEnd) {
  EventStreamParser parser;
  const std::string piece(4096, 'a');
  Status status;
  int pieces = 0;
  for (; status.ok() && pieces < 1000; ++pieces) {
    status = parser.feed(piece, [](const auto&, const auto&) {});
  }
  ASSERT_FALSE(status.ok());
  EXPECT_EQ(status.error().code, ErrorCode::kProtocol);
}

}  // namespace
}  // namespace tempo
