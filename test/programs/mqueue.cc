// POSIX message queues, empty while nobody asks: a process waits at one and
// answers through the other. With an argument, one has a message.
#include <mqueue.h>
#include <sys/wait.h>

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

}  // namespace

int main(int argc, char**) {
  mqd_t questions = make("/questions", 0640), answers = make("/answers", 0604);
  struct stat before{};
  need(fstat(questions, &before) == 0, "fstat");
  if (argc > 1) need(mq_send(make("/full", 0600), "x", 1, 0) == 0, "mq_send");
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
    verdict.expect(waitpid(child, nullptr, WNOHANG) == 0, "the other process has ended");
    mqd_t again = mq_open("/questions", O_RDONLY);
    verdict.expect(again >= 0, "no such queue any more");
    mq_close(again);
  });
}
