// File: tools/tls_flags.h
// The flags of mutual TLS that workers and off-loaders share.
#pragma once

#include <CLI/CLI.hpp>

#include "wire/tls.h"

namespace tempo {

inline void add_tls_flags(CLI::App& app, TlsFiles& files) {
  app.add_option("--tls-cert", files.certificate,
                 "tcp: encrypt, and show this certificate (PEM); with --tls-key and --tls-ca");
  app.add_option("--tls-key", files.key, "tcp: the certificate's key (PEM)");
  app.add_option("--tls-ca", files.ca,
                 "tcp: serve and use only peers that this CA vouches for (PEM)");
}

}  // namespace tempo
