#include "client/interrupt.h"

#include <array>
#include <csignal>

namespace tempo {
namespace {

constexpr std::array kSignals = {SIGINT, SIGTERM, SIGHUP};
std::atomic<Interrupt*> g_current = nullptr;

void set_handlers(void (*handler)(int)) {
  struct sigaction action = {};
  action.sa_handler = handler;
  sigemptyset(&action.sa_mask);
  for (const int signal : kSignals) ::sigaction(signal, &action, nullptr);
}

}  // namespace

Interrupt::Interrupt() {
  Interrupt* none = nullptr;
  TEMPO_ASSERT(g_current.compare_exchange_strong(none, this));
  set_handlers(&Interrupt::on_signal);
}

Interrupt::~Interrupt() {
  set_handlers(SIG_DFL);
  g_current = nullptr;
}

void Interrupt::on_signal(int) {
  Interrupt* const current = g_current;
  if (current == nullptr) return;
  ++current->count_;
  current->event_.raise();
}

}  // namespace tempo
