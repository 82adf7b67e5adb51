// Unix sockets in every state, with what waits in them: bytes, packets, files
// that travel along; names of every kind; connections that nobody has accepted.
#include <sys/socket.h>
#include <sys/un.h>
#include <sys/wait.h>

#include <array>
#include <optional>
#include <vector>

#include "program.h"

using namespace program;

namespace {

// Without what CRIU can't bring back: names that peers know, senders of packets,
// empty packets, where files stand between bytes, who is at the other end, sockets that
// only travel.
bool plain = false;
// All descriptors stay what they are, for those who compare.
bool steady = false;

struct Name {
  sockaddr_un address{};
  socklen_t size = sizeof address.sun_family;
  explicit Name(const std::string& text) {
    address.sun_family = AF_UNIX;
    memcpy(address.sun_path, text.data(), text.size());
    size += text.size() + (text.size() && text[0] != '\0');
  }
  const sockaddr* at() const { return reinterpret_cast<const sockaddr*>(&address); }
};

std::string name_of(int fd, bool peer) {
  sockaddr_un address{};
  socklen_t size = sizeof address;
  auto* at = reinterpret_cast<sockaddr*>(&address);
  if ((peer ? getpeername(fd, at, &size) : getsockname(fd, at, &size)) != 0) return "none";
  std::string name(address.sun_path, size - sizeof address.sun_family);
  return !name.empty() && name[0] ? name.c_str() : name;
}

std::array<int, 2> pair(int type) {
  std::array<int, 2> ends{};
  need(socketpair(AF_UNIX, type, 0, ends.data()) == 0, "socketpair");
  return ends;
}

int bound(int type, const std::string& name) {
  int fd = socket(AF_UNIX, type, 0);
  Name at(name);
  need(bind(fd, at.at(), at.size) == 0, "bind");
  return fd;
}

int connected(int type, const std::string& to, const std::string& own = {}) {
  int fd = own.empty() ? socket(AF_UNIX, type, 0) : bound(type, own);
  Name at(to);
  need(connect(fd, at.at(), at.size) == 0, "connect");
  return fd;
}

void send_text(int fd, const std::string& text, const std::vector<int>& files = {}) {
  alignas(cmsghdr) char control[256] = {};
  iovec vector{const_cast<char*>(text.data()), text.size()};
  msghdr message{};
  message.msg_iov = &vector;
  message.msg_iovlen = 1;
  if (!files.empty()) {
    message.msg_control = control;
    message.msg_controllen = CMSG_SPACE(files.size() * sizeof(int));
    cmsghdr* part = CMSG_FIRSTHDR(&message);
    part->cmsg_level = SOL_SOCKET;
    part->cmsg_type = SCM_RIGHTS;
    part->cmsg_len = CMSG_LEN(files.size() * sizeof(int));
    memcpy(CMSG_DATA(part), files.data(), files.size() * sizeof(int));
  }
  need(sendmsg(fd, &message, MSG_DONTWAIT) == static_cast<ssize_t>(text.size()), "sendmsg");
}

struct Received {
  std::string text, from;
  std::vector<int> files;
  ucred sender{};
};

Received receive(int fd, size_t most) {
  Received result;
  result.text.resize(most);
  alignas(cmsghdr) char control[256] = {};
  sockaddr_un from{};
  iovec vector{result.text.data(), most};
  msghdr message{};
  message.msg_name = &from;
  message.msg_namelen = sizeof from;
  message.msg_iov = &vector;
  message.msg_iovlen = 1;
  message.msg_control = control;
  message.msg_controllen = sizeof control;
  ssize_t size = recvmsg(fd, &message, MSG_DONTWAIT);
  result.text.resize(size < 0 ? 0 : size);
  if (size < 0) result.text = strerror(errno);
  if (message.msg_namelen > sizeof from.sun_family) {
    result.from.assign(from.sun_path, message.msg_namelen - sizeof from.sun_family);
    if (result.from[0]) result.from = result.from.c_str();
  }
  for (cmsghdr* part = CMSG_FIRSTHDR(&message); part; part = CMSG_NXTHDR(&message, part)) {
    if (part->cmsg_type == SCM_CREDENTIALS) memcpy(&result.sender, CMSG_DATA(part), sizeof(ucred));
    if (part->cmsg_type != SCM_RIGHTS) continue;
    result.files.resize((part->cmsg_len - CMSG_LEN(0)) / sizeof(int));
    memcpy(result.files.data(), CMSG_DATA(part), part->cmsg_len - CMSG_LEN(0));
  }
  return result;
}

std::string take(int fd, size_t most = 100) { return receive(fd, most).text; }

const std::string abstract("\0unix_sockets", 13);
const std::string abstract_server("\0unix_server", 12);

// Each makes something, and checks it as often as it is asked to: what it took
// out of a queue is in it again afterwards.
struct Pairs {
  std::array<int, 2> stream = pair(SOCK_STREAM), packets = pair(SOCK_SEQPACKET),
                     datagrams = pair(SOCK_DGRAM), half = pair(SOCK_STREAM),
                     orphan = pair(SOCK_SEQPACKET);
  Pairs() {
    shutdown(half[0], SHUT_WR);
    send_text(orphan[1], "last words");
    close(orphan[1]);
    fill();
  }
  void fill() {
    for (int end : {stream[0], packets[0], datagrams[0]})
      for (const char* text : {"one", "three"}) send_text(end, text);
    send_text(stream[1], std::string(60000, 'b'));
    if (!plain) send_text(packets[0], "");
    send_text(half[1], "to the deaf");
  }
  void check(Verdict& verdict) {
    verdict.expect(take(stream[1]) == "onethree", "bytes of a pair");
    for (int end : {packets[1], datagrams[1]}) {
      verdict.expect(take(end) == "one", "the first packet");
      verdict.expect(take(end) == "three", "the second packet");
    }
    if (!plain) verdict.expect(take(packets[1]).empty(), "an empty packet");
    verdict.expect(take(stream[0], 70000) == std::string(60000, 'b'), "many bytes");
    verdict.expect(take(half[0]) == "to the deaf", "bytes for the half that is open");
    verdict.expect(take(half[1]).empty(), "the end of the half that is shut");
    verdict.expect(take(orphan[0]) == (orphan_read ? "" : "last words"), "what a closed one sent");
    orphan_read = true;
    fill();
  }
  bool orphan_read = false;
};

struct Rights {
  std::array<int, 2> stream = pair(SOCK_STREAM), inner = pair(SOCK_DGRAM), outer = pair(SOCK_DGRAM),
                     loop = pair(SOCK_DGRAM);
  Rights() { fill(); }
  void fill() {
    int ends[2];
    need(pipe(ends) == 0, "pipe");
    need(write(ends[1], "in the pipe", 11) == 11, "write");
    if (!plain) send_text(stream[0], "head");
    send_text(stream[0], "body", {ends[0], ends[1]});
    send_text(stream[0], "tail");
    close(ends[0]);
    close(ends[1]);
    if (plain) return;
    // A socket with something in its queue travels in the queue of another.
    auto far = pair(SOCK_DGRAM);
    int motd = open("/unix_sockets", O_RDONLY);
    send_text(far[0], "nested", {motd});
    close(motd);
    send_text(outer[0], "outer", {far[1]});
    close(far[0]);
    close(far[1]);
    // One that travels in its own.
    send_text(loop[0], "self", {loop[1]});
  }
  void check(Verdict& verdict) {
    if (!plain) {
      Received head = receive(stream[1], 4);
      verdict.expect(head.text == "head" && head.files.empty(), "bytes before files");
    }
    Received body = receive(stream[1], 4);
    verdict.expect(body.text == "body" && body.files.size() == 2, "bytes with files");
    verdict.expect(take(stream[1], 4) == "tail", "bytes behind files");
    if (!verdict.ok()) return;
    char text[12] = {};
    verdict.expect(read(body.files[0], text, 11) == 11 && !strcmp(text, "in the pipe"),
                   "a pipe that travelled");
    verdict.expect(write(body.files[1], "x", 1) == 1, "its other end");
    for (int fd : body.files) close(fd);
    if (plain) return fill();
    Received out = receive(outer[1], 100);
    if (!verdict.expect(out.text == "outer" && out.files.size() == 1, "a travelling socket"))
      return;
    Received in = receive(out.files[0], 100);
    if (!verdict.expect(in.text == "nested" && in.files.size() == 1, "what waits in it")) return;
    verdict.expect(read(in.files[0], text, 4) == 4 && !memcmp(text, "\177ELF", 4), "a file in it");
    close(in.files[0]);
    close(out.files[0]);
    Received self = receive(loop[1], 100);
    if (!verdict.expect(self.text == "self" && self.files.size() == 1, "a loop")) return;
    send_text(loop[0], "again");
    verdict.expect(take(self.files[0]) == "again", "the socket that was in its own queue");
    close(self.files[0]);
    fill();
  }
};

// Listening, accepted, waiting to be accepted; by path, by a relative and by an
// abstract name, and where the one that listened is gone.
struct Server {
  std::string path;
  int type, listener, early, served;
  struct stat file{};
  std::vector<int> waiting;
  Server(const std::string& name, int kind, bool relative = false) : path(name), type(kind) {
    if (relative) need(chdir("/tmp") == 0, "chdir");
    listener = bound(type, path);
    if (path[0]) {
      need(chmod(path.c_str(), 0642) == 0 && stat(path.c_str(), &file) == 0, "chmod");
    }
    need(listen(listener, 7) == 0, "listen");
    early = connected(type, path);
    served = accept(listener, nullptr, nullptr);
    for (int i = 0; i < 2; ++i) waiting.push_back(connected(type, path));
    send_text(early, "request");
  }
  void check(Verdict& verdict) {
    const char* name = path.c_str() + (path[0] == 0);
    verdict.expect(name_of(listener, false) == path, "%s: name", name);
    if (!plain) {
      verdict.expect(name_of(served, false) == path, "%s: name of the accepted", name);
      verdict.expect(name_of(early, true) == path, "%s: name as its client knows it", name);
    }
    if (path[0]) {
      struct stat now{};
      verdict.expect(stat(path.c_str(), &now) == 0, "%s: no file", name);
      verdict.expect(
          now.st_mode == file.st_mode && now.st_uid == file.st_uid && now.st_gid == file.st_gid,
          "%s: mode %o", name, now.st_mode);
    }
    verdict.expect(take(served) == "request", "%s: a request", name);
    send_text(served, "answer");
    verdict.expect(take(early) == "answer", "%s: an answer", name);
    for (int& client : waiting) {
      if (steady) break;
      int late = accept4(listener, nullptr, nullptr, SOCK_NONBLOCK);
      if (!verdict.expect(late >= 0, "%s: nobody waits to be accepted", name)) return;
      send_text(client, "late");
      verdict.expect(take(late) == "late", "%s: from one that waited", name);
      close(late);
      close(client);
      client = connected(type, path);
    }
    send_text(early, "request");
  }
};

struct Datagrams {
  std::string name;
  int server, named, nameless, unconnected;
  explicit Datagrams(const std::string& path) : name(path) {
    server = bound(SOCK_DGRAM, path);
    named = connected(SOCK_DGRAM, path, path + ".client");
    nameless = connected(SOCK_DGRAM, path);
    unconnected = bound(SOCK_DGRAM, path + ".other");
    fill();
  }
  void fill() {
    int pipes[2];
    need(pipe(pipes) == 0, "pipe");
    send_text(named, "first");
    send_text(nameless, "second", {pipes[0]});
    Name to(name);
    need(sendto(unconnected, "third", 5, 0, to.at(), to.size) == 5, "sendto");
    close(pipes[0]);
    close(pipes[1]);
  }
  void check(Verdict& verdict) {
    Received first = receive(server, 100), second = receive(server, 100),
             third = receive(server, 100);
    verdict.expect(first.text == "first" && second.text == "second" && third.text == "third",
                   "datagrams: %s, %s, %s", first.text.c_str(), second.text.c_str(),
                   third.text.c_str());
    verdict.expect(second.files.size() == 1, "a file with a datagram");
    if (!plain)
      verdict.expect(
          first.from == name + ".client" && second.from.empty() && third.from == name + ".other",
          "senders: %s, %s, %s", first.from.c_str(), second.from.c_str(), third.from.c_str());
    for (int fd : second.files) close(fd);
    verdict.expect(name_of(named, true) == name, "name of the server");
    fill();
  }
};

// The file of the server's name is gone, and another has taken its place.
struct Ghosts {
  int old_server, client, new_server, renamed;
  Ghosts() {
    old_server = bound(SOCK_DGRAM, "/tmp/ghost");
    client = connected(SOCK_DGRAM, "/tmp/ghost");
    unlink("/tmp/ghost");
    new_server = bound(SOCK_DGRAM, "/tmp/ghost");
    send_text(client, "old");
    if (plain) return;
    renamed = bound(SOCK_DGRAM, "/tmp/new-name~");
    need(rename("/tmp/new-name~", "/tmp/new-name") == 0, "rename");
  }
  void check(Verdict& verdict) {
    verdict.expect(take(old_server) == "old", "a server without a file");
    verdict.expect(name_of(old_server, false) == "/tmp/ghost", "its name");
    int fresh = connected(SOCK_DGRAM, "/tmp/ghost");
    send_text(fresh, "new");
    verdict.expect(take(new_server) == "new", "a server in its place");
    close(fresh);
    send_text(client, "old");
    if (plain) return;
    fresh = connected(SOCK_DGRAM, "/tmp/new-name");
    send_text(fresh, "renamed");
    verdict.expect(take(renamed) == "renamed", "a server with another name");
    verdict.expect(name_of(renamed, false) == "/tmp/new-name~", "the name it was bound by");
    close(fresh);
  }
};

// Who is at the other end, and who sent what waits.
struct Credentials {
  std::vector<std::pair<int, ucred>> known;
  std::array<int, 2> passing = pair(SOCK_DGRAM);
  pid_t child;

  static ucred peer_of(int fd) {
    ucred peer{};
    socklen_t size = sizeof peer;
    need(getsockopt(fd, SOL_SOCKET, SO_PEERCRED, &peer, &size) == 0, "SO_PEERCRED");
    return peer;
  }
  void note(int fd) { known.emplace_back(fd, peer_of(fd)); }

  explicit Credentials(const std::vector<int>& others) {
    int on = 1;
    need(setsockopt(passing[1], SOL_SOCKET, SO_PASSCRED, &on, sizeof on) == 0, "SO_PASSCRED");
    auto channel = pair(SOCK_DGRAM);
    int listener = bound(SOCK_STREAM, "/tmp/credentials");
    need(listen(listener, 1) == 0, "listen");
    if (fork() == 0) {  // is gone when its sockets are still there
      auto ends = pair(SOCK_STREAM);
      send_text(channel[0], "ends", {ends[0], ends[1], connected(SOCK_STREAM, "/tmp/credentials")});
      _exit(0);
    }
    wait(nullptr);
    for (int fd : receive(channel[1], 10).files) note(fd);
    note(accept(listener, nullptr, nullptr));
    child = fork();
    if (child == 0) {
      int fd = connected(SOCK_STREAM, "/tmp/credentials");
      for (;;) {
        send_text(passing[0], "from a child");
        char byte;
        while (read(fd, &byte, 1) != 1) continue;
      }
    }
    note(accept(listener, nullptr, nullptr));
    note(listener);
    for (int fd : others) note(fd);
    while (recv(passing[1], nullptr, 0, MSG_PEEK) != 0) continue;
  }
  void check(Verdict& verdict) {
    for (size_t i = 0; i < known.size(); ++i) {
      const ucred was = known[i].second, is = peer_of(known[i].first);
      verdict.expect(was.pid == is.pid && was.uid == is.uid && was.gid == is.gid,
                     "peer %zu: process %d of %u:%u, was %d of %u:%u", i, is.pid, is.uid, is.gid,
                     was.pid, was.uid, was.gid);
    }
    Received got = receive(passing[1], 100);
    verdict.expect(got.text == "from a child" && got.sender.pid == child && got.sender.uid == 0,
                   "a packet from process %d, %d", got.sender.pid, child);
    // The child sends it once more.
    need(write(known[4].first, "x", 1) == 1, "ask the child");
    while (recv(passing[1], nullptr, 0, MSG_PEEK) != 0) continue;
  }
};

}  // namespace

int main(int argc, char** argv) {
  signal(SIGPIPE, SIG_IGN);
  plain = argc > 1 && !strcmp(argv[1], "plain");
  steady = argc > 1 && !strcmp(argv[1], "steady");
  Pairs pairs;
  Rights rights;
  Server stream("/tmp/stream", SOCK_STREAM), packets(abstract, SOCK_SEQPACKET),
      relative("relative", SOCK_STREAM, true),
      shared(steady ? "/tmp/shared" : "/data/socket", SOCK_STREAM);
  Server closed(abstract_server, SOCK_STREAM);
  close(closed.listener);
  for (int fd : closed.waiting) close(fd);
  Datagrams datagrams("/tmp/datagrams");
  Ghosts ghosts;
  std::optional<Credentials> credentials;
  if (!plain)
    credentials.emplace(std::vector<int>{pairs.stream[0], pairs.datagrams[1], stream.early,
                                         stream.served, stream.waiting[0], packets.served,
                                         closed.early, closed.served});
  auto check = [&](Verdict& verdict) {
    pairs.check(verdict);
    rights.check(verdict);
    for (Server* server : {&stream, &packets, &relative, &shared}) server->check(verdict);
    if (!plain)
      verdict.expect(name_of(closed.early, true) == abstract_server,
                     "name of a server that is gone");
    datagrams.check(verdict);
    ghosts.check(verdict);
    if (credentials) credentials->check(verdict);
  };
  Verdict first;  // what it allocates is there from the beginning
  check(first);
  need(first.ok(), first.why().c_str());
  serve(check);
}
