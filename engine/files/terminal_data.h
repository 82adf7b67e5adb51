// What waits in a terminal to be read. The kernel shows it to nobody who doesn't
// take it out; it is put back at once.
#pragma once

#include <string>

namespace stasis::engine::files {

struct TerminalData {
  std::string typed;    // for the slave: lines as they are read, and one that has begun
  std::string printed;  // for the master
  bool empty() const { return typed.empty() && printed.empty(); }
};

// `master`: -1 where it is outside; what it has to read is its holder's then.
// `beginnings`: lines that have begun, which cannot be seen without a change of
// the terminal's settings, also where nothing else waits. `slave` doesn't block.
TerminalData copy_data(int master, int slave, bool beginnings);

// Into a terminal that nobody uses meanwhile. `slave` can be read and written.
void put_data(int slave, const TerminalData& data);

}  // namespace stasis::engine::files
