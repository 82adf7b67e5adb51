"""Another kernel's vdso in an image: the tasks keep it, and its functions lead on to this kernel's.

The other kernel is this one, with a byte of the vdso in the image changed that means nothing.
"""
import mmap

from harness import Container, expect, scenario
from in_place import from_checkpoint, start

ELF_HEADER = b"\x7fELF\x02\x01\x01"
PADDING = 15  # of e_ident


def make_foreign(image):
    """Changes the vdso of every process in the image: the only pages that begin with an ELF header
    which has no program interpreter, being in nobody's file."""
    changed = 0
    for pages in image.glob("pages-*.img"):
        with open(pages, "r+b") as file:
            if not pages.stat().st_size:
                continue
            content = mmap.mmap(file.fileno(), 0)
            for at in range(0, len(content), mmap.PAGESIZE):
                page = content[at:at + mmap.PAGESIZE]
                if page.startswith(ELF_HEADER) and b"linux-vdso.so" in page:
                    content[at + PADDING] ^= 1
                    changed += 1
    expect(changed, "the image holds no vdso")


def foreign_kernel(program, *args):
    @scenario(name=f"vdso_{program}")
    def go(env):
        with Container(env, program, *args) as c:
            c.start()
            before = c.observe()
            for _ in range(2):  # the second time they have two
                image = c.checkpoint()
                make_foreign(image)
                c.restore(image).ask()
            c.same_as(before, ignore=("/mappings",))
            c.ask().comes_back(c.observe())
        c.gone()


for _program in ("vdso", "clock", "threads", "prefork"):
    foreign_kernel(_program)


@scenario
def vdso_in_place(env):
    env.only_stasis()
    with Container(env, "vdso") as c:
        c.start()
        image = c.checkpoint()
        make_foreign(image)
        from_checkpoint(c, image)
        start(c)
        c.ask()
    c.gone()
