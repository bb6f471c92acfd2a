#include "offloader/worker_finder.h"

#include <spdlog/spdlog.h>

#include <algorithm>
#include <array>
#include <atomic>
#include <deque>
#include <fstream>
#include <functional>
#include <future>
#include <map>
#include <mutex>
#include <random>
#include <set>
#include <sstream>
#include <thread>
#include <utility>

#include "wire/event.h"
#include "wire/frame.h"
#include "wire/relay_frame.h"
#include "wire/relay_stream.h"
#include "wire/unix_socket.h"
// After the above, which puts Boost's headers in an order that works.
#include <boost/asio/connect.hpp>
#include <boost/asio/executor_work_guard.hpp>
#include <boost/asio/io_context.hpp>
#include <boost/asio/posix/stream_descriptor.hpp>
#include <boost/asio/post.hpp>
#include <boost/asio/steady_timer.hpp>

namespace tempo {
namespace {

using boost::system::error_code;
using std::chrono::milliseconds;
using Clock = std::chrono::steady_clock;
using Tcp = RelayStream::Tcp;

// Of names and addresses, and of the connection.
constexpr milliseconds kConnectLimit{1000};
constexpr milliseconds kFirstDelay{50};  // programs that were started together
constexpr milliseconds kDelay{200};      // after a loss
constexpr milliseconds kMaxDelay{5000};
// A worker that was there for so long is looked for without delay when it is lost.
constexpr std::chrono::seconds kSettled{5};
constexpr milliseconds kFilePeriod{1000};
constexpr std::size_t kMaxFileBytes = 65536;

Result<std::string> read_addresses(const std::string& path) {
  std::ifstream file(path);
  std::string content(kMaxFileBytes + 1, '\0');
  file.read(content.data(), static_cast<std::streamsize>(content.size()));
  content.resize(static_cast<std::size_t>(file.gcount()));
  if (file.bad() || (!file && !file.eof())) {
    return Error{ErrorCode::kNotFound, "cannot read the workers' addresses", path, "", "", ""};
  }
  if (content.size() > kMaxFileBytes) {
    return Error{ErrorCode::kUsage,
                 "too long for a file of addresses",
                 path,
                 "at most " + std::to_string(kMaxFileBytes) + " bytes",
                 "",
                 ""};
  }
  return content;
}

Error too_many(const std::string& where, std::size_t count) {
  return {ErrorCode::kUsage,
          "too many workers",
          where,
          "at most " + std::to_string(kMaxWorkers),
          std::to_string(count),
          ""};
}

// Looks for the worker of one address until it is found; again when it is lost. All on one thread.
class Seeker : public std::enable_shared_from_this<Seeker> {
 public:
  using Publish = std::function<void(WorkerNews)>;

  Seeker(boost::asio::io_context& io, std::size_t id, WorkerAddress address,
         std::shared_ptr<TlsContext> tls, Publish publish)
      : io_(io),
        id_(id),
        address_(std::move(address)),
        tls_(std::move(tls)),
        publish_(std::move(publish)),
        timer_(io),
        resolver_(io),
        random_(std::random_device()()) {}

  void seek();
  void lost();
  // Not wanted any more.
  void stop();

 private:
  struct Attempt;  // what one attempt has open; a late handler finds that it is not the last one

  void seek_local();
  void seek_remote();
  void connect(const std::shared_ptr<Attempt>& attempt, const Tcp::resolver::results_type& where);
  void say_hello(const std::shared_ptr<Attempt>& attempt);
  void welcome(const std::shared_ptr<Attempt>& attempt);
  void expire(const std::shared_ptr<Attempt>& attempt, milliseconds limit, const char* what);
  void found(WorkerNews news);
  void again(const std::shared_ptr<Attempt>& attempt, const Error& why);
  void again_later();
  bool is_over(const std::shared_ptr<Attempt>& attempt) const { return attempt_ != attempt; }

  boost::asio::io_context& io_;
  const std::size_t id_;
  const WorkerAddress address_;
  const std::shared_ptr<TlsContext> tls_;
  const Publish publish_;
  boost::asio::steady_timer timer_;
  Tcp::resolver resolver_;
  std::minstd_rand random_;
  std::shared_ptr<Attempt> attempt_;
  milliseconds delay_ = kFirstDelay;
  Clock::time_point since_;
  bool warned_ = false;
  bool stopped_ = false;
};

struct Seeker::Attempt {
  explicit Attempt(boost::asio::io_context& io) : timer(io), socket(io), local(io) {}

  boost::asio::steady_timer timer;
  Tcp::socket socket;
  std::optional<RelayStream> stream;
  boost::asio::posix::stream_descriptor local;
  RelayHelloFrame hello = encode_relay_hello();
  RelayWelcomeFrame welcome;
  std::array<std::byte, kFrameHeaderBytes + sizeof(WorkerInfo)> local_welcome;

  void close() {
    error_code ignored;
    timer.cancel(ignored);
    socket.close(ignored);
    if (stream) stream->close();
    local.close(ignored);
  }
};

Error unreachable(const char* what, const error_code& error) {
  return {ErrorCode::kNoWorker, what, "", "", error.message(), ""};
}

void Seeker::seek() {
  if (stopped_) return;
  attempt_ = std::make_shared<Attempt>(io_);
  if (address_.is_tcp()) {
    seek_remote();
  } else {
    seek_local();
  }
}

void Seeker::seek_local() {
  const auto attempt = attempt_;
  Fd socket = connect_unix(address_.path);
  if (!socket.valid()) return again(attempt, {ErrorCode::kNoWorker, "nobody listens there"});
  // It has room for the hello, or is no good.
  if (const Status sent = send_frame(socket.get(), FrameType::kHello, {}, {}, deadline_in_ms(0));
      !sent.ok()) {
    return again(attempt, sent.error());
  }
  attempt->local.assign(socket.release());
  // Without a deadline: a worker that serves another off-loader answers when that one is gone.
  boost::asio::async_read(
      attempt->local,
      boost::asio::buffer(attempt->local_welcome.data(), attempt->local_welcome.size()),
      [self = shared_from_this(), attempt](const error_code& error, std::size_t) {
        if (self->is_over(attempt)) return;
        if (error) return self->again(attempt, unreachable("no answer", error));
        const std::span<const std::byte> bytes = attempt->local_welcome;
        const auto header = decode_frame_header(bytes.first(kFrameHeaderBytes));
        if (!header) return self->again(attempt, header.error());
        const bool is_welcome =
            header->type == FrameType::kWelcome && header->body_bytes == sizeof(WorkerInfo);
        if (!is_welcome) return self->again(attempt, {ErrorCode::kProtocol, "no welcome"});
        const auto info = decode_worker(bytes.subspan(kFrameHeaderBytes));
        if (!info) return self->again(attempt, info.error());
        WorkerNews news;
        news.local = Fd(attempt->local.release());
        news.info = *info;
        self->found(std::move(news));
      });
}

void Seeker::seek_remote() {
  const auto attempt = attempt_;
  expire(attempt, kConnectLimit, "no connection in time");
  resolver_.async_resolve(
      address_.host, std::to_string(address_.port),
      [self = shared_from_this(), attempt](const error_code& error, const auto& where) {
        if (self->is_over(attempt)) return;
        if (error) return self->again(attempt, unreachable("no such host", error));
        self->connect(attempt, where);
      });
}

void Seeker::connect(const std::shared_ptr<Attempt>& attempt,
                     const Tcp::resolver::results_type& where) {
  boost::asio::async_connect(
      attempt->socket, where,
      [self = shared_from_this(), attempt](const error_code& error, const Tcp::endpoint&) {
        if (self->is_over(attempt)) return;
        if (error) return self->again(attempt, unreachable("no connection", error));
        tune_relay_socket(attempt->socket.native_handle());
        self->say_hello(attempt);
      });
}

void Seeker::say_hello(const std::shared_ptr<Attempt>& attempt) {
  expire(attempt, milliseconds(kRelayHelloMs), "no welcome in time");
  if (tls_) {
    auto tls = std::make_unique<RelayStream::Tls>(std::move(attempt->socket), *tls_);
    if (!expect_tls_host(tls->native_handle(), address_.host)) {
      return again(attempt, {ErrorCode::kInternal, "cannot check the certificate's name"});
    }
    attempt->stream.emplace(std::move(tls));
  } else {
    attempt->stream.emplace(std::move(attempt->socket));
  }
  attempt->stream->shake_hands(
      boost::asio::ssl::stream_base::client,
      [self = shared_from_this(), attempt](const error_code& error) {
        if (self->is_over(attempt)) return;
        if (error) return self->again(attempt, unreachable("no TLS handshake", error));
        attempt->stream->write_all(attempt->hello, [self, attempt](const error_code& failed) {
          if (self->is_over(attempt)) return;
          if (failed) return self->again(attempt, unreachable("no hello", failed));
          self->welcome(attempt);
        });
      });
}

void Seeker::welcome(const std::shared_ptr<Attempt>& attempt) {
  attempt->stream->read_all(
      attempt->welcome, [self = shared_from_this(), attempt](const error_code& error) {
        if (self->is_over(attempt)) return;
        if (error) return self->again(attempt, unreachable("no welcome", error));
        const auto welcome = decode_relay_welcome(attempt->welcome);
        if (!welcome) return self->again(attempt, welcome.error());
        WorkerNews news;
        news.remote = std::make_unique<TcpChannel>(std::move(*attempt->stream), welcome->limits);
        attempt->stream.reset();
        news.info = welcome->worker;
        self->found(std::move(news));
      });
}

void Seeker::expire(const std::shared_ptr<Attempt>& attempt, milliseconds limit, const char* what) {
  attempt->timer.expires_after(limit);
  attempt->timer.async_wait([self = shared_from_this(), attempt, what](const error_code& error) {
    if (!error && !self->is_over(attempt)) self->again(attempt, {ErrorCode::kNoWorker, what});
  });
}

void Seeker::found(WorkerNews news) {
  attempt_->close();
  attempt_.reset();
  since_ = Clock::now();
  warned_ = false;
  news.id = id_;
  news.address = address_.text;
  publish_(std::move(news));
}

void Seeker::again(const std::shared_ptr<Attempt>& attempt, const Error& why) {
  attempt->close();
  attempt_.reset();
  resolver_.cancel();
  if (stopped_) return;
  // Once an outage: who is not there is no news.
  const auto level = std::exchange(warned_, true) || why.what == "nobody listens there"
                         ? spdlog::level::debug
                         : spdlog::level::warn;
  spdlog::log(level, "worker {}: {}", address_.text, why.one_line());
  again_later();
}

void Seeker::again_later() {
  const std::uniform_int_distribution<std::int64_t> jitter(delay_.count() / 2, delay_.count());
  auto spread = jitter;
  timer_.expires_after(milliseconds(spread(random_)));
  delay_ = std::min(delay_ * 2, kMaxDelay);
  timer_.async_wait([self = shared_from_this()](const error_code& error) {
    if (!error) self->seek();
  });
}

void Seeker::lost() {
  if (stopped_ || attempt_) return;
  if (Clock::now() - since_ > kSettled || delay_ < kDelay) delay_ = kDelay;
  again_later();
}

void Seeker::stop() {
  stopped_ = true;
  timer_.cancel();
  resolver_.cancel();
  if (attempt_) attempt_->close();
  attempt_.reset();
}

}  // namespace

class WorkerFinder::Impl {
 public:
  explicit Impl(std::shared_ptr<TlsContext> tls) : tls_(std::move(tls)), file_timer_(io_) {}
  ~Impl() {
    io_.stop();
    if (thread_.joinable()) thread_.join();
  }

  Status read_files(const std::vector<std::string>& paths);
  void run(const std::vector<WorkerAddress>& addresses);

  // Nothing new is found after that; the thread goes on.
  void stop_seeking();
  int wait_fd() const { return news_event_.fd(); }
  std::optional<WorkerNews> take();
  void lost(std::size_t id) {
    boost::asio::post(io_, [this, id] {
      for (const auto& [text, wanted] : seekers_) {
        if (wanted.id == id && wanted.seeker) wanted.seeker->lost();
      }
    });
  }
  std::size_t wanted() const { return wanted_; }
  std::size_t wanted_local() const { return wanted_local_; }

 private:
  struct Wanted {
    std::size_t id = 0;
    bool is_local = false;
    std::shared_ptr<Seeker> seeker;  // null: not wanted now
  };
  struct WatchedFile {
    std::string path;
    std::string content;
    std::vector<WorkerAddress> addresses;
  };

  void update();
  void watch();
  void look_at(WatchedFile& file);
  void publish(WorkerNews news);

  const std::shared_ptr<TlsContext> tls_;
  std::vector<WorkerAddress> fixed_;
  std::vector<WatchedFile> files_;
  std::atomic<std::size_t> wanted_ = 0;
  std::atomic<std::size_t> wanted_local_ = 0;
  std::mutex mutex_;
  std::deque<WorkerNews> news_;
  Event news_event_;
  boost::asio::io_context io_{1};
  const boost::asio::executor_work_guard<boost::asio::io_context::executor_type> work_ =
      boost::asio::make_work_guard(io_);
  boost::asio::steady_timer file_timer_;
  std::map<std::string, Wanted> seekers_;  // by the address's text; never shrinks
  std::thread thread_;
};

Status WorkerFinder::Impl::read_files(const std::vector<std::string>& paths) {
  for (const std::string& path : paths) {
    auto content = read_addresses(path);
    if (!content) return content.error();
    auto addresses = parse_address_file(*content, path);
    if (!addresses) return addresses.error();
    files_.push_back({path, std::move(*content), std::move(*addresses)});
  }
  return {};
}

void WorkerFinder::Impl::run(const std::vector<WorkerAddress>& addresses) {
  fixed_ = addresses;
  update();
  if (!files_.empty()) watch();
  thread_ = std::thread([this] { io_.run(); });
}

// Starts to look for what is new in the lists, and lets go of what is not in them any more.
void WorkerFinder::Impl::update() {
  std::vector<WorkerAddress> all = fixed_;
  for (const WatchedFile& file : files_) {
    all.insert(all.end(), file.addresses.begin(), file.addresses.end());
  }
  std::set<std::string> texts;
  for (const WorkerAddress& address : all) {
    if (texts.contains(address.text)) continue;
    if (texts.size() == kMaxWorkers) {
      spdlog::warn("{} and what follows it are ignored: at most {} workers", address.text,
                   kMaxWorkers);
      break;
    }
    texts.insert(address.text);
    const auto [place, is_new] = seekers_.try_emplace(address.text);
    Wanted& wanted = place->second;
    if (is_new) wanted.id = seekers_.size() - 1;
    wanted.is_local = !address.is_tcp();
    if (wanted.seeker) continue;
    wanted.seeker = std::make_shared<Seeker>(io_, wanted.id, address, tls_,
                                             [this](WorkerNews news) { publish(std::move(news)); });
    wanted.seeker->seek();
  }
  std::size_t local = 0;
  for (auto& [text, wanted] : seekers_) {
    if (wanted.seeker && !texts.contains(text)) {
      std::exchange(wanted.seeker, nullptr)->stop();
      WorkerNews left;
      left.id = wanted.id;
      left.address = text;
      publish(std::move(left));
    }
    local += wanted.seeker && wanted.is_local ? 1 : 0;
  }
  wanted_ = texts.size();
  wanted_local_ = local;
}

void WorkerFinder::Impl::watch() {
  file_timer_.expires_after(kFilePeriod);
  file_timer_.async_wait([this](const error_code& error) {
    if (error) return;
    for (WatchedFile& file : files_) look_at(file);
    watch();
  });
}

void WorkerFinder::Impl::look_at(WatchedFile& file) {
  auto content = read_addresses(file.path);
  // A file that is being replaced: the list stays as it is.
  if (!content || *content == file.content) return;
  file.content = std::move(*content);
  auto addresses = parse_address_file(file.content, file.path);
  if (!addresses) {
    spdlog::warn("the list of workers stays as it was: {}", addresses.error().one_line());
    return;
  }
  file.addresses = std::move(*addresses);
  update();
}

void WorkerFinder::Impl::publish(WorkerNews news) {
  const std::lock_guard lock(mutex_);
  news_.push_back(std::move(news));
  news_event_.raise();
}

void WorkerFinder::Impl::stop_seeking() {
  std::promise<void> stopped;
  boost::asio::post(io_, [&] {
    file_timer_.cancel();
    for (auto& [text, wanted] : seekers_) {
      if (wanted.seeker) wanted.seeker->stop();
    }
    stopped.set_value();
  });
  stopped.get_future().wait();
}

std::optional<WorkerNews> WorkerFinder::Impl::take() {
  const std::lock_guard lock(mutex_);
  if (news_.empty()) {
    news_event_.clear();
    return std::nullopt;
  }
  WorkerNews news = std::move(news_.front());
  news_.pop_front();
  return news;
}

Result<std::unique_ptr<WorkerFinder>> WorkerFinder::start(const WorkerList& list) {
  auto tls = make_tls(list.tls, TlsRole::kOffloader);
  if (!tls) return tls.error();
  auto impl = std::make_unique<Impl>(std::move(*tls));
  TEMPO_RETURN_IF_ERROR(impl->read_files(list.files));
  impl->run(list.addresses);
  return std::unique_ptr<WorkerFinder>(new WorkerFinder(std::move(impl)));
}

WorkerFinder::WorkerFinder(std::unique_ptr<Impl> impl) : impl_(std::move(impl)) {}

WorkerFinder::~WorkerFinder() {
  // Channels that nobody took wait for the thread, which must still run.
  impl_->stop_seeking();
  while (impl_->take()) continue;
}

int WorkerFinder::wait_fd() const {
  return impl_->wait_fd();
}
std::optional<WorkerNews> WorkerFinder::take() {
  return impl_->take();
}
void WorkerFinder::lost(std::size_t id) {
  impl_->lost(id);
}
std::size_t WorkerFinder::wanted() const {
  return impl_->wanted();
}
std::size_t WorkerFinder::wanted_local() const {
  return impl_->wanted_local();
}

Result<std::vector<WorkerAddress>> parse_address_file(const std::string& content,
                                                      const std::string& path) {
  std::vector<WorkerAddress> addresses;
  std::istringstream lines(content);
  int number = 0;
  for (std::string line; std::getline(lines, line);) {
    ++number;
    line.resize(std::min(line.find('#'), line.size()));
    constexpr const char* kSpace = " \t\r";
    const std::size_t first = line.find_first_not_of(kSpace);
    if (first == std::string::npos) continue;
    auto address =
        parse_worker_address(line.substr(first, line.find_last_not_of(kSpace) - first + 1));
    if (!address) {
      Error error = address.error();
      error.where = path + " line " + std::to_string(number) + ": " + error.where;
      return error;
    }
    addresses.push_back(std::move(*address));
  }
  if (addresses.size() > kMaxWorkers) return too_many(path, addresses.size());
  return addresses;
}

Result<WorkerList> parse_worker_list(const std::vector<std::string>& texts) {
  constexpr std::string_view kFile = "file:";
  WorkerList list;
  for (const std::string& text : texts) {
    if (text.starts_with(kFile) && text.size() > kFile.size()) {
      list.files.push_back(text.substr(kFile.size()));
      continue;
    }
    auto address = parse_worker_address(text);
    if (!address) return address.error();
    list.addresses.push_back(std::move(*address));
  }
  if (list.addresses.size() > kMaxWorkers) return too_many("--workers", list.addresses.size());
  return list;
}

}  // namespace tempo
