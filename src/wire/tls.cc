#include "wire/tls.h"

#include <openssl/ssl.h>
#include <openssl/x509v3.h>

#include <boost/asio/ip/address.hpp>

namespace tempo {
namespace {

using boost::system::error_code;

Error bad_file(const char* what, const std::string& path, const error_code& error) {
  return {ErrorCode::kNotFound, what, path, "a PEM file", error.message(), ""};
}

}  // namespace

Result<std::shared_ptr<TlsContext>> make_tls(const TlsFiles& files, TlsRole role) {
  if (!files.enabled()) return std::shared_ptr<TlsContext>();
  if (files.certificate.empty() || files.key.empty() || files.ca.empty()) {
    return Error{ErrorCode::kUsage,
                 "TLS takes three files",
                 "--tls-cert, --tls-key, --tls-ca",
                 "all of them, or none",
                 "",
                 ""};
  }
  auto tls = std::make_shared<TlsContext>(role == TlsRole::kWorker ? TlsContext::tls_server
                                                                   : TlsContext::tls_client);
  SSL_CTX* const native = tls->native_handle();
  SSL_CTX_set_min_proto_version(native, TLS1_3_VERSION);
  SSL_CTX_set_num_tickets(native, 0);  // connections live long; nothing is resumed
  SSL_CTX_set_session_cache_mode(native, SSL_SESS_CACHE_OFF);
  error_code error;
  tls->use_certificate_chain_file(files.certificate, error);
  if (error) return bad_file("cannot use the certificate", files.certificate, error);
  tls->use_private_key_file(files.key, TlsContext::pem, error);
  if (error) return bad_file("cannot use the key of the certificate", files.key, error);
  tls->load_verify_file(files.ca, error);
  if (error) return bad_file("cannot use the CA's certificate", files.ca, error);
  if (SSL_CTX_check_private_key(native) != 1) {
    return Error{
        ErrorCode::kUsage, "the key does not belong to the certificate", files.key, "", "", ""};
  }
  tls->set_verify_mode(boost::asio::ssl::verify_peer |
                       boost::asio::ssl::verify_fail_if_no_peer_cert);
  return tls;
}

bool expect_tls_host(SSL* connection, const std::string& host) {
  error_code not_an_address;
  (void)boost::asio::ip::make_address(host, not_an_address);
  X509_VERIFY_PARAM* const wanted = SSL_get0_param(connection);
  if (!not_an_address) return X509_VERIFY_PARAM_set1_ip_asc(wanted, host.c_str()) == 1;
  SSL_set_tlsext_host_name(connection, host.c_str());
  return X509_VERIFY_PARAM_set1_host(wanted, host.c_str(), 0) == 1;
}

}  // namespace tempo
