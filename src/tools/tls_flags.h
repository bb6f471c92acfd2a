// File: tools/tls_flags.h
// The flags of mutual TLS that workers and off-loaders share.
#pragma once

#include <CLI/CLI.hpp>
#include <string>

#include "wire/tls_files.h"

namespace tempo {

// prefix: "--tls" or what comes before "-cert", "-key" and "-ca".
inline void add_tls_flags(CLI::App& app, TlsFiles& files, const std::string& prefix = "--tls") {
  app.add_option(prefix + "-cert", files.certificate,
                 "tcp: encrypt, and show this certificate (PEM); key and CA go with it");
  app.add_option(prefix + "-key", files.key, "tcp: the certificate's key (PEM)");
  app.add_option(prefix + "-ca", files.ca,
                 "tcp: serve and use only peers that this CA vouches for (PEM)");
}

}  // namespace tempo
