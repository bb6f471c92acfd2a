#include "enclave/train/npy.h"

#include <cstring>
#include <limits>
#include <optional>
#include <utility>

namespace tempo {
namespace {

constexpr std::string_view kMagic = "\x93NUMPY";
constexpr std::size_t kMaxDimensions = 8;
constexpr std::size_t kMaxHeaderBytes = 4096;  // NumPy writes 128 for arrays like ours
constexpr std::size_t kAlignment = 64;         // of the values, as NumPy writes them

struct TypeInfo {
  NpyType type;
  std::string_view descr;
  std::string_view name;
  std::size_t bytes;
};
constexpr TypeInfo kTypes[] = {
    {NpyType::kFloat32, "<f4", "float32", 4}, {NpyType::kUint8, "|u1", "uint8", 1},
    {NpyType::kInt8, "|i1", "int8", 1},       {NpyType::kInt32, "<i4", "int32", 4},
    {NpyType::kInt64, "<i8", "int64", 8},
};

const TypeInfo& type_info(NpyType type) {
  for (const TypeInfo& info : kTypes) {
    if (info.type == type) return info;
  }
  return kTypes[0];
}

Error bad_npy(const std::string& name, std::string what, std::string expected, std::string got) {
  return {ErrorCode::kBadData,
          std::move(what),
          name,
          std::move(expected),
          std::move(got),
          "save it with numpy.save(file, numpy.ascontiguousarray(array)), as float32 or uint8 "
          "(samples), an integer type or float32 (labels)"};
}

// Reads the dict literal. Every function advances past what it accepts and nothing else.
class HeaderParser {
 public:
  explicit HeaderParser(std::string_view text) : text_(text) {}

  void skip_space() {
    while (pos_ < text_.size() && (text_[pos_] == ' ' || text_[pos_] == '\n')) ++pos_;
  }
  bool accept(char c) {
    skip_space();
    if (pos_ == text_.size() || text_[pos_] != c) return false;
    ++pos_;
    return true;
  }
  bool accept_word(std::string_view word) {
    skip_space();
    if (text_.substr(pos_, word.size()) != word) return false;
    pos_ += word.size();
    return true;
  }
  // A string in single or double quotes, without escapes.
  std::optional<std::string_view> quoted() {
    skip_space();
    if (pos_ == text_.size() || (text_[pos_] != '\'' && text_[pos_] != '"')) return std::nullopt;
    const std::size_t end = text_.find(text_[pos_], pos_ + 1);
    if (end == std::string_view::npos) return std::nullopt;
    const std::string_view content = text_.substr(pos_ + 1, end - pos_ - 1);
    pos_ = end + 1;
    return content;
  }
  std::optional<std::int64_t> number() {
    skip_space();
    constexpr std::int64_t kMax = std::int64_t{1} << 48;
    std::int64_t value = 0;
    const std::size_t begin = pos_;
    for (; pos_ < text_.size() && text_[pos_] >= '0' && text_[pos_] <= '9'; ++pos_) {
      value = value * 10 + (text_[pos_] - '0');
      if (value > kMax) return std::nullopt;
    }
    if (pos_ == begin) return std::nullopt;
    return value;
  }
  // "()", "(3,)", "(3, 4)".
  std::optional<std::vector<std::int64_t>> tuple() {
    std::vector<std::int64_t> values;
    if (!accept('(')) return std::nullopt;
    while (!accept(')')) {
      const auto value = number();
      if (!value || values.size() == kMaxDimensions) return std::nullopt;
      values.push_back(*value);
      if (accept(',')) continue;
      if (!accept(')') || values.size() == 1) return std::nullopt;  // "(3)" is not a tuple
      break;
    }
    return values;
  }
  bool at_end() {
    skip_space();
    return pos_ == text_.size();
  }

 private:
  std::string_view text_;
  std::size_t pos_ = 0;
};

struct Header {
  std::optional<std::string_view> descr;
  std::optional<bool> fortran_order;
  std::optional<std::vector<std::int64_t>> shape;
};

// Nothing when the text is not a dict of exactly the three keys.
std::optional<Header> parse_header(std::string_view text) {
  HeaderParser parser(text);
  Header header;
  if (!parser.accept('{')) return std::nullopt;
  while (!parser.accept('}')) {
    const auto key = parser.quoted();
    if (!key || !parser.accept(':')) return std::nullopt;
    if (*key == "descr" && !header.descr) {
      header.descr = parser.quoted();
      if (!header.descr) return std::nullopt;
    } else if (*key == "fortran_order" && !header.fortran_order) {
      if (parser.accept_word("False")) {
        header.fortran_order = false;
      } else if (parser.accept_word("True")) {
        header.fortran_order = true;
      } else {
        return std::nullopt;
      }
    } else if (*key == "shape" && !header.shape) {
      header.shape = parser.tuple();
      if (!header.shape) return std::nullopt;
    } else {
      return std::nullopt;
    }
    if (parser.accept(',')) continue;
    if (!parser.accept('}')) return std::nullopt;
    break;
  }
  if (!parser.at_end() || !header.descr || !header.fortran_order || !header.shape) {
    return std::nullopt;
  }
  return header;
}

template <class T>
T read_little_endian(const std::byte* from) {
  T value;  // the enclave runs on little-endian machines only
  std::memcpy(&value, from, sizeof(T));
  return value;
}

std::int64_t integer_at(NpyType type, const std::byte* values, std::size_t index) {
  switch (type) {
    case NpyType::kUint8:
      return std::to_integer<std::uint8_t>(values[index]);
    case NpyType::kInt8:
      return read_little_endian<std::int8_t>(values + index);
    case NpyType::kInt32:
      return read_little_endian<std::int32_t>(values + index * 4);
    case NpyType::kInt64:
      return read_little_endian<std::int64_t>(values + index * 8);
    case NpyType::kFloat32:
      break;
  }
  TEMPO_ASSERT(false);
}

}  // namespace

std::string_view npy_type_name(NpyType type) {
  return type_info(type).name;
}

Result<NpyArray> parse_npy(const std::string& name, std::span<const std::byte> bytes) {
  const std::string_view text(reinterpret_cast<const char*>(bytes.data()), bytes.size());
  if (!text.starts_with(kMagic)) return bad_npy(name, "not a .npy file", "NumPy's magic", "none");
  const std::size_t version_at = kMagic.size();
  if (text.size() < version_at + 6) {
    return bad_npy(name, "truncated .npy file", "a header",
                   std::to_string(text.size()) + " bytes in all");
  }
  const unsigned major = std::to_integer<unsigned>(bytes[version_at]);
  if (major != 1 && major != 2) {
    return bad_npy(name, "unsupported .npy version", "1 or 2", std::to_string(major));
  }
  const std::size_t length_bytes = major == 1 ? 2 : 4;
  std::size_t header_bytes = 0;
  for (std::size_t i = 0; i < length_bytes; ++i) {
    header_bytes |= std::to_integer<std::size_t>(bytes[version_at + 2 + i]) << (8 * i);
  }
  NpyArray array;
  array.offset = version_at + 2 + length_bytes + header_bytes;
  if (header_bytes > kMaxHeaderBytes) {
    return bad_npy(name, "oversized .npy header",
                   "at most " + std::to_string(kMaxHeaderBytes) + " bytes",
                   std::to_string(header_bytes));
  }
  if (array.offset > bytes.size()) {
    return bad_npy(name, "truncated .npy file",
                   "a header of " + std::to_string(header_bytes) + " bytes",
                   std::to_string(text.size()) + " bytes in all");
  }
  const auto header = parse_header(text.substr(array.offset - header_bytes, header_bytes));
  if (!header) {
    return bad_npy(name, "malformed .npy header",
                   "a dict of descr, fortran_order and shape (at most 8 dimensions)",
                   "something else");
  }
  const TypeInfo* info = nullptr;
  for (const TypeInfo& candidate : kTypes) {
    if (candidate.descr == *header->descr) info = &candidate;
  }
  if (info == nullptr) {
    return bad_npy(name, "unsupported .npy value type", "<f4, |u1, |i1, <i4 or <i8",
                   std::string(header->descr->substr(0, 32)));
  }
  array.type = info->type;
  if (*header->fortran_order) {
    return bad_npy(name, "unsupported .npy order", "C order", "Fortran order");
  }
  array.shape = *header->shape;
  const std::size_t payload = bytes.size() - array.offset;
  std::size_t elements = 1;
  for (std::size_t d = 0; d < array.shape.size(); ++d) {
    const auto size = static_cast<std::size_t>(array.shape[d]);
    if (size == 0) {
      return bad_npy(name, "empty dimension " + std::to_string(d), "at least 1", "0");
    }
    // Division keeps the product from overflowing.
    if (size > payload / info->bytes / elements) {
      return bad_npy(name, "truncated .npy file",
                     "more than " + std::to_string(payload) + " bytes of values",
                     std::to_string(payload));
    }
    elements *= size;
  }
  if (elements * info->bytes != payload) {
    return bad_npy(name,
                   elements * info->bytes > payload ? "truncated .npy file"
                                                    : "bytes left over at the end of the .npy file",
                   std::to_string(elements * info->bytes) + " bytes of values",
                   std::to_string(payload));
  }
  return array;
}

Result<std::vector<std::int32_t>> npy_integers(const std::string& name, const NpyArray& array,
                                               std::span<const std::byte> bytes,
                                               const std::string& what) {
  if (array.type == NpyType::kFloat32) {
    return bad_npy(name, what + "s are integers", "int64, int32, int8 or uint8", "float32");
  }
  std::size_t count = 1;
  for (const std::int64_t dim : array.shape) count *= static_cast<std::size_t>(dim);
  const std::size_t a_sample = count / static_cast<std::size_t>(array.shape[0]);
  std::vector<std::int32_t> values(count);
  for (std::size_t i = 0; i < count; ++i) {
    const std::int64_t value = integer_at(array.type, bytes.data() + array.offset, i);
    if (value < 0 || value > std::numeric_limits<std::int32_t>::max()) {
      return Error{ErrorCode::kBadData,
                   what + " out of range",
                   name + ", sample " + std::to_string(i / a_sample),
                   "0 or more, below 2^31",
                   std::to_string(value),
                   "correct the " + what};
    }
    values[i] = static_cast<std::int32_t>(value);
  }
  return values;
}

std::vector<std::byte> write_npy(std::span<const float> values,
                                 std::span<const std::int64_t> shape) {
  std::string head(kMagic);
  head += '\x01';
  head += '\x00';
  std::string dims;
  for (const std::int64_t dim : shape) dims += (dims.empty() ? "" : ", ") + std::to_string(dim);
  if (shape.size() == 1) dims += ',';
  std::string dict = "{'descr': '<f4', 'fortran_order': False, 'shape': (" + dims + "), }";
  const std::size_t unpadded = head.size() + 2 + dict.size() + 1;
  dict.append((kAlignment - unpadded % kAlignment) % kAlignment, ' ');
  dict += '\n';
  head += static_cast<char>(dict.size() & 0xFFU);
  head += static_cast<char>(dict.size() >> 8U);
  head += dict;
  std::vector<std::byte> file(head.size() + values.size_bytes());
  std::memcpy(file.data(), head.data(), head.size());
  if (!values.empty()) {
    std::memcpy(file.data() + head.size(), values.data(), values.size_bytes());
  }
  return file;
}

}  // namespace tempo
