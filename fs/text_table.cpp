#include "fs/text_table.hpp"

#include <fmt/format.h>

#include <algorithm>

namespace dynamicfs::fs {

std::string Table::print() const {
  std::vector<std::size_t> widths;
  for (const Column& column : columns_) widths.push_back(column.title.size());
  for (const auto& row : rows_) {
    for (std::size_t i = 0; i < row.size(); ++i) widths[i] = std::max(widths[i], row[i].size());
  }
  std::vector<std::string> titles;
  for (const Column& column : columns_) titles.push_back(column.title);
  std::string out = print_row(titles, widths);
  for (const auto& row : rows_) out += print_row(row, widths);
  return out;
}

std::string Table::print_row(const std::vector<std::string>& row,
                             const std::vector<std::size_t>& widths) const {
  std::string line = " ";
  for (std::size_t i = 0; i < row.size(); ++i) {
    line += columns_[i].right ? fmt::format(" {:>{}}", row[i], widths[i])
                              : fmt::format(" {:<{}}", row[i], widths[i]);
    line += " ";
  }
  while (line.back() == ' ') line.pop_back();
  return line + "\n";
}

std::string printable(std::string_view name) {
  std::string out;
  for (std::size_t i = 0; i < name.size(); ++i) {
    const auto byte = static_cast<unsigned char>(name[i]);
    // The control characters of ISO 8859 are two bytes in UTF-8, and terminals obey them, too.
    const bool second = i > 0 && static_cast<unsigned char>(name[i - 1]) == 0xc2;
    if (byte == '\\') {
      out += "\\\\";
    } else if (byte < 0x20 || byte == 0x7f || (second && byte >= 0x80 && byte < 0xa0)) {
      out += fmt::format("\\{:03o}", byte);
    } else {
      out += name[i];
    }
  }
  return out;
}

std::string bar(std::uint64_t part, std::uint64_t whole, std::uint64_t cells) {
  const double share =
      whole == 0 ? 0 : std::min(static_cast<double>(part) / static_cast<double>(whole), 1.0);
  auto full = static_cast<std::uint64_t>(share * static_cast<double>(cells));
  if (whole != 0 && part != 0) full = std::clamp(full, std::uint64_t{1}, cells);
  return fmt::format("[{:#<{}}{:-<{}}]", "", full, "", cells - full);
}

}  // namespace dynamicfs::fs
