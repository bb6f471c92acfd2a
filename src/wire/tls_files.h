// File: wire/tls_files.h
// The files of mutual TLS; see wire/tls.h.
#pragma once

#include <string>

namespace tempo {

// PEM files. All empty: no TLS.
struct TlsFiles {
  std::string certificate;  // with intermediate certificates, if any
  std::string key;
  std::string ca;

  bool enabled() const { return !certificate.empty() || !key.empty() || !ca.empty(); }
};

}  // namespace tempo
