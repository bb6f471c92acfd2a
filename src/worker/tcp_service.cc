#include "worker/tcp_service.h"

#include <spdlog/spdlog.h>

#include <algorithm>
#include <condition_variable>
#include <deque>
#include <list>
#include <mutex>
#include <optional>
#include <string>
#include <thread>
#include <utility>

#include "wire/event.h"
#include "wire/relay_pump.h"
#include "worker/relay_server.h"
#include "worker/wait.h"
// After the above, which puts Boost's headers in an order that works.
#include <boost/asio/io_context.hpp>
#include <boost/asio/post.hpp>

namespace tempo {
namespace {

using boost::system::error_code;
using Tcp = RelayStream::Tcp;
using std::chrono::milliseconds;

constexpr milliseconds kAcceptAgain{50};

std::string name_of(const Tcp::socket& socket) {
  error_code error;
  const auto endpoint = socket.remote_endpoint(error);
  if (error) return "a peer";
  return endpoint.address().to_string() + " port " + std::to_string(endpoint.port());
}

RelayStream make_stream(Tcp::socket socket, const std::shared_ptr<TlsContext>& tls) {
  if (!tls) return RelayStream(std::move(socket));
  return RelayStream(std::make_unique<RelayStream::Tls>(std::move(socket), *tls));
}

// One off-loader that is served.
struct RelaySession {
  RelaySession(const RelayLimits& limits, std::span<std::byte> memory) : server(limits, memory) {}

  std::mutex mutex;
  RelayServer server;
  bool waiting = false;        // for news
  std::optional<Error> ended;  // why; all operations have ended then
  std::condition_variable end;
  Event news;  // a task, or the end
  std::shared_ptr<RelayPump> pump;
};

std::shared_ptr<RelaySession> begin_session(RelayStream stream, const RelayLimits& limits,
                                            std::span<std::byte> memory) {
  auto session = std::make_shared<RelaySession>(limits, memory);
  RelayPump::Hooks hooks;
  hooks.on_progress = [session] {
    const std::lock_guard lock(session->mutex);
    if (session->waiting && session->server.has_job()) session->news.raise();
  };
  hooks.on_end = [session](const Error& why) {
    const std::lock_guard lock(session->mutex);
    session->ended = why;
    session->news.raise();
    session->end.notify_all();
  };
  session->pump = std::make_shared<RelayPump>(std::move(stream), session->server, session->mutex,
                                              std::move(hooks));
  session->pump->start();
  return session;
}

void end_session(RelaySession& session) {
  session.pump->close();
  std::unique_lock lock(session.mutex);
  session.end.wait(lock, [&] { return session.ended.has_value(); });
}

// From the connection to the welcome, within one deadline.
class Handshake : public std::enable_shared_from_this<Handshake> {
 public:
  // answer: says what to welcome a peer with, and claims the worker for it when that is kServed.
  // done: the last call; with a stream when it is to be served, or with an error, or with neither
  // when it was told that it cannot be served. claimed: answer() said kServed.
  struct Outcome {
    std::optional<RelayStream> stream;
    std::optional<Error> error;
    bool claimed = false;
  };
  using Answer = std::function<RelayWelcome(std::uint32_t version)>;
  using Done = std::function<void(Handshake&, Outcome)>;

  Handshake(RelayStream stream, Answer answer, Done done)
      : stream_(std::move(stream)),
        timer_(stream_.socket().get_executor()),
        answer_(std::move(answer)),
        done_(std::move(done)),
        peer_(name_of(stream_.socket())) {}

  const std::string& peer() const { return peer_; }

  void start() {
    tune_relay_socket(stream_.socket().native_handle());
    timer_.expires_after(milliseconds(kRelayHelloMs));
    timer_.async_wait([self = shared_from_this()](const error_code& error) {
      if (!error) self->fail("no complete hello in time", "");
    });
    stream_.shake_hands(boost::asio::ssl::stream_base::server,
                        [self = shared_from_this()](const error_code& error) {
                          if (error) return self->fail("no TLS handshake", error.message());
                          self->read_hello();
                        });
  }
  void fail(const char* what, std::string got) {
    finish({std::nullopt, Error{ErrorCode::kProtocol, what, "", "", std::move(got), ""}, false});
  }

 private:
  void read_hello() {
    stream_.read_all(hello_, [self = shared_from_this()](const error_code& error) {
      if (error) return self->fail("no hello", error.message());
      const auto version = decode_relay_hello(self->hello_);
      if (!version) return self->finish({std::nullopt, version.error(), false});
      self->welcome(*version);
    });
  }
  void welcome(std::uint32_t version) {
    if (!done_) return;  // too late
    const RelayWelcome welcome = answer_(version);
    claimed_ = welcome.answer == RelayAnswer::kServed;
    welcome_ = encode_relay_welcome(welcome);
    stream_.write_all(welcome_, [self = shared_from_this()](const error_code& error) {
      if (error) return self->fail("the peer is gone", error.message());
      if (!self->claimed_) return self->finish({});
      self->finish({std::move(self->stream_), std::nullopt, false});
    });
  }
  void finish(Outcome outcome) {
    if (!done_) return;
    timer_.cancel();
    if (!outcome.stream) stream_.close();
    outcome.claimed = claimed_;
    const Done done = std::exchange(done_, nullptr);
    done(*this, std::move(outcome));
  }

  RelayStream stream_;
  boost::asio::steady_timer timer_;
  Answer answer_;
  Done done_;
  const std::string peer_;
  RelayHelloFrame hello_;
  RelayWelcomeFrame welcome_;
  bool claimed_ = false;
};

}  // namespace

class TcpService::Impl {
 public:
  Impl(TcpServiceOptions options, Serving& serving, RelayMemory memory)
      : options_(std::move(options)), serving_(serving), memory_(std::move(memory)) {}
  ~Impl() {
    io_.stop();
    if (thread_.joinable()) thread_.join();
  }

  Status listen(const WorkerAddress& address);
  void run() {
    for (Acceptor& acceptor : acceptors_) accept(acceptor);
    thread_ = std::thread([this] { io_.run(); });
  }
  std::vector<std::uint16_t> ports() const {
    std::vector<std::uint16_t> ports;
    for (const Acceptor& a : acceptors_) ports.push_back(a.socket.local_endpoint().port());
    return ports;
  }
  int wait_fd() const { return arrived_.fd(); }
  SessionEnd serve(TaskExecutor& executor, const Device& device, int stop_fd);

 private:
  struct Acceptor {
    explicit Acceptor(boost::asio::io_context& io) : socket(io), again(io) {}
    Tcp::acceptor socket;
    boost::asio::steady_timer again;
  };

  void accept(Acceptor& acceptor);
  void greet(Tcp::socket socket);
  RelayWelcome answer(std::uint32_t version);
  void greeted(Handshake& handshake, Handshake::Outcome outcome);
  void say_of_served(const std::string& line);

  const TcpServiceOptions options_;
  Serving& serving_;
  const RelayMemory memory_;
  std::mutex mutex_;
  std::shared_ptr<RelaySession> session_;  // begun and not yet taken by serve()
  Event arrived_;
  boost::asio::io_context io_{1};
  std::list<Acceptor> acceptors_;
  std::list<std::shared_ptr<Handshake>> handshakes_;  // the oldest first
  std::thread thread_;
};

Status TcpService::Impl::listen(const WorkerAddress& address) {
  const auto cannot = [&](ErrorCode code, const char* what, const error_code& error) {
    return Error{code, what, address.text, "", error.message(), "choose another address or port"};
  };
  error_code error;
  Tcp::resolver resolver(io_);
  const auto found =
      resolver.resolve(address.host, std::to_string(address.port), Tcp::resolver::passive, error);
  if (error || found.empty()) return cannot(ErrorCode::kNotFound, "no such host", error);
  const Tcp::endpoint endpoint = found.begin()->endpoint();
  Tcp::acceptor& socket = acceptors_.emplace_back(io_).socket;
  socket.open(endpoint.protocol(), error);
  if (!error) socket.set_option(Tcp::acceptor::reuse_address(true), error);
  if (!error) socket.bind(endpoint, error);
  if (!error) socket.listen(64, error);
  if (error) return cannot(ErrorCode::kIo, "cannot listen there", error);
  return {};
}

void TcpService::Impl::accept(Acceptor& acceptor) {
  acceptor.socket.async_accept([this, &acceptor](const error_code& error, Tcp::socket socket) {
    if (!error) {
      greet(std::move(socket));
      return accept(acceptor);
    }
    // Without descriptors the listener would stay readable: do not spin on it.
    acceptor.again.expires_after(kAcceptAgain);
    acceptor.again.async_wait([this, &acceptor](const error_code& stopped) {
      if (!stopped) accept(acceptor);
    });
  });
}

void TcpService::Impl::greet(Tcp::socket socket) {
  if (handshakes_.size() >= kMaxHandshakes) {
    const auto oldest = handshakes_.front();
    oldest->fail("too many hellos are under way", "");
  }
  handshakes_.push_back(std::make_shared<Handshake>(
      make_stream(std::move(socket), options_.tls),
      [this](std::uint32_t version) { return answer(version); },
      [this](Handshake& handshake, Handshake::Outcome outcome) {
        greeted(handshake, std::move(outcome));
      }));
  const auto handshake = handshakes_.back();
  handshake->start();
}

RelayWelcome TcpService::Impl::answer(std::uint32_t version) {
  RelayWelcome welcome;
  welcome.limits = options_.limits;
  welcome.worker = options_.info;
  if (version != kRelayVersion) {
    welcome.answer = RelayAnswer::kOtherVersion;
  } else if (!serving_.claim()) {
    welcome.answer = RelayAnswer::kBusy;
  }
  return welcome;
}

void TcpService::Impl::greeted(Handshake& handshake, Handshake::Outcome outcome) {
  if (outcome.stream) {
    say_of_served("serving an off-loader at " + handshake.peer());
    auto session = begin_session(std::move(*outcome.stream), options_.limits, memory_.bytes());
    const std::lock_guard lock(mutex_);
    session_ = std::move(session);
    arrived_.raise();
  } else {
    if (outcome.claimed) serving_.release();
    const std::string why = outcome.error ? outcome.error->one_line()
                                          : "another off-loader is served, or it speaks another "
                                            "version of the protocol";
    if (const auto more = serving_.strangers_log().admit()) {
      spdlog::warn("{} was turned away: {}{}", handshake.peer(), why, *more);
    }
  }
  handshakes_.remove_if([&](const auto& each) { return each.get() == &handshake; });
}

void TcpService::Impl::say_of_served(const std::string& line) {
  if (!spdlog::should_log(spdlog::level::info)) return;
  if (const auto more = serving_.served_log().admit()) spdlog::info("{}{}", line, *more);
}

SessionEnd TcpService::Impl::serve(TaskExecutor& executor, const Device& device, int stop_fd) {
  std::shared_ptr<RelaySession> session;
  {
    const std::lock_guard lock(mutex_);
    session = std::exchange(session_, nullptr);
    arrived_.clear();
  }
  if (!session) return SessionEnd::kPeerGone;
  // Done, and not yet told: see Device::done_at.
  struct Held {
    RelayServer::Job job;
    Completion completion;
    Device::Time until;
  };
  std::deque<Held> held;
  bool stopped = false;
  for (;;) {
    std::optional<RelayServer::Job> job;
    bool told = false;
    const auto now = Device::Time::clock::now();
    {
      const std::lock_guard lock(session->mutex);
      if (session->ended) break;
      for (; !held.empty() && held.front().until <= now; held.pop_front(), told = true) {
        session->server.finish(held.front().job, held.front().completion);
      }
    }
    if (told) session->pump->wake();
    {
      // After the answers are on their way: the memory that they free may be what a task waits for.
      const std::lock_guard lock(session->mutex);
      job = session->server.take();
      session->waiting = !job;
    }
    std::optional<std::chrono::nanoseconds> timeout;
    if (!held.empty()) timeout = held.front().until - now;
    if (job) timeout = std::chrono::nanoseconds(0);
    pollfd entries[2] = {{stop_fd, POLLIN, 0}, {session->news.fd(), POLLIN, 0}};
    wait_for(entries, timeout);
    stopped = entries[0].revents != 0;
    if (stopped) break;
    if (!job) {
      session->news.clear();
      continue;
    }
    const Completion completion = executor.execute(job->task, job->payload, job->reply);
    if (completion.status != TaskStatus::kOk) {
      if (const auto more = serving_.served_log().admit()) {
        spdlog::warn("task {}: status {}, detail {}{}", job->task.request,
                     static_cast<int>(completion.status), completion.detail, *more);
      }
    }
    held.push_back({*job, completion, device.done_at()});
  }
  end_session(*session);
  say_of_served("the session ends: " + session->ended->what);
  memory_.forget();
  serving_.release();
  return stopped ? SessionEnd::kStopped : SessionEnd::kPeerGone;
}

Result<std::unique_ptr<TcpService>> TcpService::start(TcpServiceOptions options, Serving& serving) {
  auto memory = RelayMemory::reserve(options.limits.window_bytes);
  if (!memory) return memory.error();
  const std::vector<WorkerAddress> addresses = options.listen;
  auto impl = std::make_unique<Impl>(std::move(options), serving, std::move(*memory));
  for (const WorkerAddress& address : addresses) TEMPO_RETURN_IF_ERROR(impl->listen(address));
  impl->run();
  return std::unique_ptr<TcpService>(new TcpService(std::move(impl)));
}

TcpService::TcpService(std::unique_ptr<Impl> impl) : impl_(std::move(impl)) {}
TcpService::~TcpService() = default;

std::vector<std::uint16_t> TcpService::ports() const {
  return impl_->ports();
}
int TcpService::wait_fd() const {
  return impl_->wait_fd();
}
SessionEnd TcpService::serve(TaskExecutor& executor, const Device& device, int stop_fd) {
  return impl_->serve(executor, device, stop_fd);
}

bool is_loopback(const WorkerAddress& address) {
  if (!address.is_tcp() || address.host == "localhost") return true;
  error_code error;
  const auto parsed = boost::asio::ip::make_address(address.host, error);
  return !error && parsed.is_loopback();
}

}  // namespace tempo
