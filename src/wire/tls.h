// File: wire/tls.h
// Mutual TLS 1.3 between an off-loader and its workers: both show a certificate that one CA signed.
#pragma once

#include <exception>
#include <utility>
// Boost 1.74 wants the two above first.
#include <boost/asio/ssl/context.hpp>
#include <memory>
#include <string>

#include "base/error.h"
#include "wire/tls_files.h"

namespace tempo {

using TlsContext = boost::asio::ssl::context;
enum class TlsRole { kWorker, kOffloader };

// Null without TLS. Errors: kUsage (one of the three is missing, a key that does not belong to the
// certificate), kNotFound (a file that cannot be read or is not PEM).
Result<std::shared_ptr<TlsContext>> make_tls(const TlsFiles& files, TlsRole role);

// The peer's certificate must be for this name or IP address.
bool expect_tls_host(SSL* connection, const std::string& host);

}  // namespace tempo
