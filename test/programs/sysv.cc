// System V objects: shared memory of every standing with several processes in
// it, message queues with their messages, semaphores with their values.
#include <sys/ipc.h>
#include <sys/mman.h>
#include <sys/msg.h>
#include <sys/sem.h>
#include <sys/shm.h>
#include <sys/wait.h>

#include <vector>

#include "program.h"

using namespace program;

namespace {

constexpr size_t page = 4096;

struct Segment {
  const char* name;
  key_t key;
  size_t size;
  int mode;
  int id = -1;
  char* at = nullptr;
  shmid_ds before{};
};
Segment shared{"keyed", 0x51a51, 3 * page, 0640};
Segment odd{"of odd size", 0x51a52, 2 * page + 1000, 0600};
Segment removed{"removed", IPC_PRIVATE, 2 * page, 0600};
Segment lonely{"not attached", 0x51a53, 16 * page, 0604};
Segment cut{"cut", IPC_PRIVATE, 8 * page, 0600};

struct Queue {
  key_t key;
  std::vector<std::pair<long, std::string>> messages;
  int id = -1;
  msqid_ds before{};
};
Queue queues[] = {{0x6a51, {{5, "the first"}, {2, ""}, {5, std::string(5000, 'x')}, {9, "last"}}},
                  {IPC_PRIVATE, {}}};

const unsigned short values[] = {0, 7, 32767, 1};
int semaphores = -1;
semid_ds semaphores_before{};

struct Message {
  long type;
  char text[8192];
};

void make(Segment& segment, bool attach) {
  segment.id = shmget(segment.key, segment.size, IPC_CREAT | IPC_EXCL | segment.mode);
  need(segment.id >= 0, "shmget");
  segment.at = static_cast<char*>(shmat(segment.id, nullptr, 0));
  need(segment.at != reinterpret_cast<char*>(-1), "shmat");
  fill(segment.at, segment.size, static_cast<uint64_t>(segment.id) + 1);
  if (!attach) {
    need(shmdt(segment.at) == 0, "shmdt");
    segment.at = nullptr;
  }
}

void look(Segment& segment) { need(shmctl(segment.id, IPC_STAT, &segment.before) == 0, "shmctl"); }

void verify(Verdict& verdict, const Segment& s) {
  shmid_ds now{};
  if (!verdict.expect(shmctl(s.id, IPC_STAT, &now) == 0, "segment %s: %s", s.name, strerror(errno)))
    return;
  verdict.expect(now.shm_perm.__key == s.before.shm_perm.__key, "segment %s: key %x", s.name,
                 now.shm_perm.__key);
  verdict.expect(now.shm_perm.mode == s.before.shm_perm.mode, "segment %s: mode %o, was %o", s.name,
                 now.shm_perm.mode, s.before.shm_perm.mode);
  verdict.expect(now.shm_perm.uid == s.before.shm_perm.uid &&
                     now.shm_perm.gid == s.before.shm_perm.gid &&
                     now.shm_perm.cuid == s.before.shm_perm.cuid &&
                     now.shm_perm.cgid == s.before.shm_perm.cgid,
                 "segment %s: of another owner", s.name);
  verdict.expect(now.shm_segsz == s.size, "segment %s: %zu bytes", s.name, now.shm_segsz);
  verdict.expect(now.shm_nattch == s.before.shm_nattch, "segment %s: attached %lu times, was %lu",
                 s.name, now.shm_nattch, s.before.shm_nattch);
}

void verify(Verdict& verdict, const Queue& q) {
  msqid_ds now{};
  if (!verdict.expect(msgctl(q.id, IPC_STAT, &now) == 0, "queue: %s", strerror(errno))) return;
  verdict.expect(now.msg_perm.__key == q.key && now.msg_perm.mode == q.before.msg_perm.mode &&
                     now.msg_perm.uid == q.before.msg_perm.uid,
                 "queue %x: another owner", q.key);
  verdict.expect(now.msg_qbytes == q.before.msg_qbytes, "queue %x: room for %lu", q.key,
                 now.msg_qbytes);
  verdict.expect(now.msg_qnum == q.messages.size(), "queue %x: %lu messages", q.key, now.msg_qnum);
  // Taken and put back, so that a copy isn't all that can be had of them.
  for (const auto& [type, text] : q.messages) {
    Message message{};
    ssize_t size = msgrcv(q.id, &message, sizeof message.text, 0, IPC_NOWAIT);
    verdict.expect(size == static_cast<ssize_t>(text.size()) && message.type == type &&
                       memcmp(message.text, text.data(), text.size()) == 0,
                   "queue %x: message of %zd bytes and type %ld", q.key, size, message.type);
    verdict.expect(msgsnd(q.id, &message, text.size(), IPC_NOWAIT) == 0, "queue %x: full", q.key);
  }
}

void verify_semaphores(Verdict& verdict) {
  semid_ds now{};
  if (!verdict.expect(semctl(semaphores, 0, IPC_STAT, &now) == 0, "semaphores: %s",
                      strerror(errno)))
    return;
  verdict.expect(now.sem_perm.mode == semaphores_before.sem_perm.mode, "semaphores: mode %o",
                 now.sem_perm.mode);
  unsigned short found[4] = {};
  semctl(semaphores, 0, GETALL, found);
  for (int i = 0; i < 4; i++)
    verdict.expect(found[i] == values[i], "semaphore %d is %d, was %d", i, found[i], values[i]);
}

void verify_lonely(Verdict& verdict) {
  auto* at = static_cast<char*>(shmat(lonely.id, nullptr, SHM_RDONLY));
  if (!verdict.expect(at != reinterpret_cast<char*>(-1), "lonely: %s", strerror(errno))) return;
  long wrong = check(at, lonely.size, static_cast<uint64_t>(lonely.id) + 1);
  verdict.expect(wrong < 0, "lonely: word %ld", wrong);
  shmdt(at);
}

// Whether a word written here is seen there, and the answer here.
void verify_sharing(Verdict& verdict) {
  static uint64_t last = 0;
  auto* question = reinterpret_cast<volatile uint64_t*>(shared.at);
  auto* answer = reinterpret_cast<volatile uint64_t*>(removed.at);
  *question = ++last;
  for (int i = 0; i < 2000 && *answer != last; i++) sleep_us(1000);
  verdict.expect(*answer == last, "the other process sees other shared memory");
}

// Words from..to of it as they were.
bool holds(const Segment& segment, uint64_t from, uint64_t to) {
  auto* words = reinterpret_cast<const uint64_t*>(segment.at);
  for (uint64_t i = from; i < to; i++)
    if (words[i] != pattern(static_cast<uint64_t>(segment.id) + 1, i)) return false;
  return true;
}

bool readable(const char* at) {
  int ends[2];
  if (pipe(ends) != 0) return false;
  bool works = write(ends[1], at, 1) == 1;
  close(ends[0]);
  close(ends[1]);
  return works;
}

}  // namespace

// Any word: only what CRIU keeps, too: segments that are whole, writable and in the
// list, queues of the usual room.
int main(int argc, char**) {
  const bool in_parts = argc == 1;
  make(shared, true);
  make(odd, true);
  make(removed, true);
  make(cut, true);
  make(lonely, false);
  auto* second = static_cast<char*>(shmat(shared.id, nullptr, in_parts ? SHM_RDONLY : 0));
  need(second != reinterpret_cast<char*>(-1), "shmat");
  if (in_parts) need(shmctl(removed.id, IPC_RMID, nullptr) == 0, "shmctl");
  if (in_parts)
    need(munmap(cut.at, page) == 0 && munmap(cut.at + 3 * page, page) == 0 &&
             munmap(cut.at + 7 * page, page) == 0 && mprotect(cut.at + page, page, PROT_READ) == 0,
         "munmap");
  shmid_ds owner{};
  shmctl(lonely.id, IPC_STAT, &owner);
  owner.shm_perm.uid = 1;
  owner.shm_perm.gid = 2;
  need(shmctl(lonely.id, IPC_SET, &owner) == 0, "shmctl");

  for (Queue& queue : queues) {
    queue.id = msgget(queue.key, IPC_CREAT | 0620);
    need(queue.id >= 0, "msgget");
    for (const auto& [type, text] : queue.messages) {
      Message message{type, {}};
      memcpy(message.text, text.data(), text.size());
      need(msgsnd(queue.id, &message, text.size(), 0) == 0, "msgsnd");
    }
    msqid_ds room{};
    msgctl(queue.id, IPC_STAT, &room);
    if (in_parts) room.msg_qbytes = 6000;
    need(msgctl(queue.id, IPC_SET, &room) == 0 && msgctl(queue.id, IPC_STAT, &queue.before) == 0,
         "msgctl");
  }
  // One that goes away, so that ids aren't just 0, 1, 2.
  need(semctl(semget(IPC_PRIVATE, 1, 0600), 0, IPC_RMID) == 0, "semctl");
  semaphores = semget(0x5e3a, 4, IPC_CREAT | 0606);
  need(semaphores >= 0 && semctl(semaphores, 0, SETALL, values) == 0, "semget");
  need(semctl(semaphores, 0, IPC_STAT, &semaphores_before) == 0, "semctl");

  pid_t child = fork();
  need(child >= 0, "fork");
  if (child == 0)
    for (;; sleep_us(1000))
      *reinterpret_cast<volatile uint64_t*>(removed.at) =
          *reinterpret_cast<volatile uint64_t*>(shared.at);
  for (Segment* segment : {&shared, &odd, &removed, &lonely, &cut}) look(*segment);

  serve([&, in_parts](Verdict& verdict) {
    for (const Segment* segment : {&shared, &odd, &removed, &lonely, &cut})
      verify(verdict, *segment);
    verify_sharing(verdict);
    verify_lonely(verdict);
    verdict.expect(holds(shared, 1, shared.size / 8), "keyed: content");
    verdict.expect(memcmp(shared.at, second, shared.size) == 0,
                   "the second attachment shows something else");
    verdict.expect(check(odd.at, odd.size, static_cast<uint64_t>(odd.id) + 1) < 0, "odd: content");
    if (in_parts)
      for (int i : {0, 3, 7})
        verdict.expect(!readable(cut.at + i * page), "cut: page %d is there again", i);
    verdict.expect(holds(cut, 512, 3 * 512) && holds(cut, 4 * 512, 7 * 512), "cut: content");
    for (const Queue& queue : queues) verify(verdict, queue);
    verify_semaphores(verdict);
  });
}
