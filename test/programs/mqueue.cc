// POSIX message queues: a process waits at one, answers through another, and messages of
// several priorities wait in a third. With an argument, one is to tell of its next message.
#include <mqueue.h>
#include <sys/wait.h>

#include <string>
#include <vector>

#include "program.h"

using namespace program;

namespace {

constexpr long most = 3, size = 100;

mqd_t make(const char* name, mode_t mode) {
  mq_attr attributes{};
  attributes.mq_maxmsg = most;
  attributes.mq_msgsize = size;
  umask(0);
  mqd_t queue = mq_open(name, O_CREAT | O_EXCL | O_RDWR, mode, &attributes);
  need(queue >= 0, "mq_open");
  return queue;
}

// In the order in which they are received.
struct Message {
  std::string text;
  unsigned priority;
};
const std::vector<Message> waiting{{"urgent", 9}, {std::string("\0\1", 2), 3}, {"", 3}};

void fill(mqd_t queue) {
  for (const Message& message : waiting)
    need(mq_send(queue, message.text.data(), message.text.size(), message.priority) == 0,
         "mq_send");
}

// Takes all out and puts them back.
bool holds_what_waits(mqd_t queue) {
  bool same = true;
  mq_attr attributes{};
  mq_getattr(queue, &attributes);
  if (attributes.mq_curmsgs != static_cast<long>(waiting.size())) return false;
  for (const Message& message : waiting) {
    char text[size];
    unsigned priority = 0;
    ssize_t n = mq_receive(queue, text, sizeof text, &priority);
    same &= n >= 0 && std::string(text, static_cast<size_t>(n)) == message.text &&
            priority == message.priority;
  }
  fill(queue);
  return same;
}

}  // namespace

int main(int argc, char**) {
  mqd_t questions = make("/questions", 0640), answers = make("/answers", 0604);
  struct stat before{};
  need(fstat(questions, &before) == 0, "fstat");
  mqd_t full = make("/full", 0600);
  fill(full);
  sigevent nothing{};
  nothing.sigev_notify = SIGEV_NONE;
  if (argc > 1) need(mq_notify(make("/told", 0600), &nothing) == 0, "mq_notify");
  pid_t child = fork();
  need(child >= 0, "fork");
  if (child == 0) {
    int path = open("/dev/mqueue/answers", O_WRONLY);
    char text[size];
    for (ssize_t n; (n = mq_receive(questions, text, sizeof text, nullptr)) >= 0;)
      if (mq_send(path, text, static_cast<size_t>(n), 0) != 0) break;
    _exit(1);
  }
  serve([&](Verdict& verdict) {
    struct stat now{};
    verdict.expect(fstat(questions, &now) == 0 && now.st_mode == before.st_mode, "mode %o",
                   now.st_mode);
    mq_attr attributes{};
    mq_getattr(questions, &attributes);
    verdict.expect(attributes.mq_maxmsg == most && attributes.mq_msgsize == size,
                   "room for %ld of %ld bytes", attributes.mq_maxmsg, attributes.mq_msgsize);
    char text[size];
    for (const char* word : {"first", "", "second"}) {
      timespec soon{};
      clock_gettime(CLOCK_REALTIME, &soon);
      soon.tv_sec += 3;
      verdict.expect(mq_send(questions, word, strlen(word), 1) == 0, "mq_send: %s",
                     strerror(errno));
      ssize_t n = mq_timedreceive(answers, text, sizeof text, nullptr, &soon);
      verdict.expect(n == static_cast<ssize_t>(strlen(word)) &&
                         memcmp(text, word, static_cast<size_t>(n)) == 0,
                     "the answer to \"%s\" has %zd bytes", word, n);
    }
    verdict.expect(holds_what_waits(full), "other messages wait than before");
    verdict.expect(waitpid(child, nullptr, WNOHANG) == 0, "the other process has ended");
    mqd_t again = mq_open("/questions", O_RDONLY);
    verdict.expect(again >= 0, "no such queue any more");
    mq_close(again);
  });
}
