"""The command line: `minqwen lab | course | chat | verify | info | download | bench`.

What the user got wrong is said in one sentence on stderr, with exit code 2.
"""

import argparse
import inspect
import json
import os
import sys
import tempfile
from contextlib import redirect_stdout
from pathlib import Path

from .errors import QwenError
from .files import INSTALLED, PACKAGE, RECORD, SHIPPED, unpack

DTYPES = ("float32", "bfloat16", "float16")


def main(argv: list[str] | None = None) -> int:
    """Run one command. Returns the exit code."""
    arguments = parser().parse_args(argv)
    try:
        return arguments.run(arguments) or 0
    except ValueError as error:
        if not _is_ours(error):
            raise
        print(f"minqwen: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        return 130


def _is_ours(error: ValueError) -> bool:
    """Raised by this package on purpose, and not in the depths of another by a bug."""
    trace = error.__traceback__
    while trace.tb_next:
        trace = trace.tb_next
    return isinstance(error, QwenError) or Path(trace.tb_frame.f_code.co_filename).is_relative_to(PACKAGE)


def parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser("minqwen", description="Qwen3.5 as one readable file, with a course around it.")
    commands = parser.add_subparsers(metavar="command", required=True)

    def command(run, help):
        sub = commands.add_parser(run.__name__, help=help, description=run.__doc__)
        sub.set_defaults(run=run)
        return sub

    def checkpoint_of(sub, **options):
        otherwise = "; without it, the small model that is shipped" if options else ""
        sub.add_argument("checkpoint", help="a folder, a name on the Hugging Face Hub such as Qwen/Qwen3.5-0.8B, "
                                            f"or modelscope:Qwen/Qwen3.5-0.8B{otherwise}", **options)
        sub.add_argument("--revision", help="branch, tag or commit of a checkpoint fetched by name")

    def bits(text):
        return text if text == "fp8" else int(text)

    def weights(sub, whose="of the weights (as stored)"):
        sub.add_argument("--dtype", choices=DTYPES, help=whose)
        sub.add_argument("--context", type=int, metavar="TOKENS",
                         help="which it must be able to read (as many as it can; beyond that, by YaRN)")
        sub.add_argument("--bits", type=bits, metavar="N", help="quantize the weights: 8, 4 or fp8 (as stored)")
        sub.add_argument("--group-size", type=int, metavar="N",
                         help="numbers that share a scale then (128; at 8 bits a row)")
        sub.add_argument("--embeddings", type=int, metavar="N", default=8, help="bits of embedding and head then (8)")

    def loaded(sub):
        checkpoint_of(sub, nargs="?")
        weights(sub)
        sub.add_argument("--device", default="cpu", help="cpu, or cuda for a GPU")
        sub.add_argument("--kernel", default="auto", metavar="NAME", help="of the delta rule: triton, chunk or "
                         "recurrent (auto: the quickest here)")

    sub = command(lab, "open the lessons in JupyterLab")
    sub.add_argument("notebook", nargs="?", default="00", help="a lesson by the beginning of its name (00)")
    sub.add_argument("--folder", help="copy the lessons there, unless they are, and open them there; what you changed "
                                      "stays as it is (the folder you are in, the clone, or ./minqwen-lessons)")
    sub.add_argument("--no-browser", action="store_true", help="print the address, and open it yourself")
    sub.add_argument("--port", type=int)

    sub = command(course, "which exercises of the lessons are solved, and whose the pieces are")
    sub.add_argument("--check", action="store_true", help="run the checks of what you have kept once more")
    sub.add_argument("--json", action="store_true", help="print it for a program: a list with an entry an exercise")
    whose = sub.add_mutually_exclusive_group()
    whose.add_argument("--mine", metavar="FOLDER", help="the folder mine that somebody has handed in, in place of "
                       "yours")
    whose.add_argument("--class", metavar="FOLDER", dest="learners", help="a folder with such a folder for each of a "
                       "class: checks all of them, and prints a line each")

    sub = command(chat, "talk to a checkpoint")
    loaded(sub)
    sub.add_argument("--thinking", action=argparse.BooleanOptionalAction, help="think before the answer, or do not "
                     "(as the checkpoint has it)")
    sub.add_argument("--system", help="a text that is put first")
    for kind in ("image", "video"):
        sub.add_argument(f"--{kind}", action="append", default=[], metavar="PATH",
                         help="which stands before your first question; may be given several times")
    for name, kind in (("temperature", float), ("top-k", int), ("top-p", float), ("min-p", float),
                       ("presence-penalty", float), ("max-new-tokens", int), ("thinking-budget", int),
                       ("draft-tokens", int), ("seed", int)):
        sub.add_argument(f"--{name}", type=kind, metavar="N")

    loaded(command(verify, "compare a checkpoint piece by piece with transformers"))

    sub = command(info, "what a model costs: parameters, bytes, cache")
    checkpoint_of(sub)
    weights(sub, "of weights, keys and values (as the configuration has it)")

    sub = command(download, "fetch a checkpoint and say where it is")
    checkpoint_of(sub)

    sub = command(bench, "what a user calls beside transformers, side by side in one run")
    sub.add_argument("--quick", action="store_true", help="fewer rounds, and 8 layers")
    sub.add_argument("--only", default="", metavar="PATTERN", help="the rows whose names this regular expression finds")
    sub.add_argument("--layers", type=int, metavar="N", help="of the model that is made for it (24)")
    sub.add_argument("--folder", help="where that model is kept for the while, up to 3.5 GB (the system's place for "
                     "temporary files)")
    sub.add_argument("--device", default="cpu", help="cpu, or cuda for a GPU")
    sub.add_argument("--markdown", action="store_true", help="print the table once more, for a README")
    return parser


# ----------------------------------------------------------------------------------------------------------- commands


def lab(arguments) -> None:
    """Open JupyterLab on a lesson, in a folder that is yours. It asks nothing of the network: no news, no updates."""
    try:
        from jupyterlab.labapp import LabApp
    except ImportError:
        raise QwenError("JupyterLab is missing here: pip install jupyterlab.") from None
    lesson = find_lesson(arguments.notebook, arguments.folder)
    with tempfile.TemporaryDirectory() as folder:
        quiet = {"disabledExtensions": {"@jupyterlab/apputils-extension:announcements": True}}
        (Path(folder) / "labconfig").mkdir()
        (Path(folder) / "labconfig" / "page_config.json").write_text(json.dumps(quiet))
        before = os.environ.get("JUPYTER_CONFIG_PATH", "")
        os.environ["JUPYTER_CONFIG_PATH"] = f"{folder}{os.pathsep}{before}".rstrip(os.pathsep)
        LabApp.launch_instance([
            str(lesson), f"--ServerApp.root_dir={lesson.parent.parent}", "--LabApp.news_url=None",
            "--LabApp.check_for_updates_class=jupyterlab.handlers.announcements.NeverCheckForUpdate",
            "--LabApp.extension_manager=readonly", "--ContentsManager.pre_save_hook=minqwen.cli.keep_pictures",
            *(["--no-browser"] * arguments.no_browser),
            *([f"--port={arguments.port}"] if arguments.port else []),
            *(["--allow-root"] if getattr(os, "geteuid", lambda: 1)() == 0 else []),      # as in most containers
        ])


def keep_pictures(model: dict, **_) -> None:
    """Before JupyterLab saves a notebook: of an explorer keep the picture alone.

    The view beside it belongs to this kernel. When the notebook is opened anew without that, JupyterLab shows an error
    in its place, and never the picture. On the page that is open the explorer lives on.
    """
    if model.get("type") == "notebook" and model.get("content"):
        for cell in model["content"]["cells"]:
            for output in cell.get("outputs", ()):
                if "image/png" in output.get("data", {}):
                    output["data"].pop("application/vnd.jupyter.widget-view+json", None)


def find_lesson(name: str, folder: str | None = None) -> Path:
    """A notebook by its path, or a lesson by the beginning of its name, in the folder of the lessons."""
    if Path(name).is_file():
        return Path(name).resolve()
    lessons = sorted(lessons_in(folder).glob("notebooks/[0-9]*.ipynb"))
    for lesson in lessons:
        if lesson.name.startswith(name):
            return lesson.resolve()
    raise QwenError(f"No lesson begins with {name!r}; there are {', '.join(lesson.stem for lesson in lessons)}.")


def lessons_in(folder: str | None) -> Path:
    """The folder that has notebooks/ and data/media/: the one that is named, the one we are in, or the clone.

    Lessons of an installation are inside the package, where nobody should write: they are copied out first.
    """
    here = Path.cwd().parent if Path.cwd().name == "notebooks" else Path.cwd()
    if folder is not None:
        home = Path(folder)
    elif (here / RECORD).exists():                      # put there before, perhaps by an earlier version
        home = here
    elif (here / "notebooks" / "00_start_here.ipynb").exists():
        return here                                     # a clone: its lessons come by git
    else:
        home = here / "minqwen-lessons" if INSTALLED else SHIPPED
    print(*unpack(home), f"The lessons are in {home.resolve()}.", sep="\n")
    return home


def course(arguments) -> int:
    """The exercises, lesson by lesson: yours, or not yet. Run it where the lessons are. Exit code 1 if one is wrong."""
    from .course import progress
    from .course.grading import not_looked_at

    before = os.environ.get("MINQWEN_MINE")
    if arguments.mine == "":                             # a shell's variable that was never set
        raise QwenError("--mine is empty: name the folder mine that a learner has handed in.")
    if arguments.learners == "":
        raise QwenError("--class is empty: name the folder that has a folder for each learner.")
    if arguments.learners:
        return whole_class(Path(arguments.learners), arguments.json)
    if arguments.mine is not None:                       # also for the processes that check; one may be called off
        os.environ["MINQWEN_MINE"] = os.path.abspath(arguments.mine)
        if remark := not_looked_at(Path(arguments.mine)):
            print(f"minqwen: {remark}.", file=sys.stderr)
    try:
        with redirect_stdout(sys.stderr):                # what a checked function prints is none of the answer
            standing = progress(arguments.check)
    finally:
        if arguments.mine is not None:
            os.environ.pop("MINQWEN_MINE")
        if before is not None:
            os.environ["MINQWEN_MINE"] = before
    if arguments.json:
        print(json.dumps([exercise._asdict() for exercise in standing], indent=2))
    else:
        lesson = wrong = None
        for exercise in standing:
            print("" if exercise.lesson == lesson else f"\nlesson {exercise.lesson}\n", end="")
            lesson = exercise.lesson
            print(f"  {'✗' if exercise.wrong else '✓' if exercise.yours else '·'} {exercise.name:28}"
                  f"{'yours' if exercise.yours else 'broken' if exercise.wrong else 'not yet'}")
            if exercise.wrong and exercise.wrong != wrong:       # of a broken file it is the same for a whole lesson
                print(f"      {exercise.wrong}")
            wrong = exercise.wrong
        print(f"\n{sum(exercise.yours for exercise in standing)} of {len(standing)} are yours, in "
              f"{arguments.mine or 'notebooks/mine/'}; for the others the lessons run on the course's own.")
    return int(any(exercise.wrong for exercise in standing))


def whole_class(folder: Path, as_json: bool) -> int:
    """A line for each learner of a class, as soon as it is known. Exit code 1 if anything is wrong, or not known."""
    from .course.grading import graded

    learners = []
    for learner in graded(folder):
        learners.append(learner)
        if not as_json:
            right = sum(exercise.yours and not exercise.wrong for exercise in learner.exercises)
            wrong = [exercise.name for exercise in learner.exercises if exercise.wrong]
            said = [f"{right} of {len(learner.exercises)} right"] * bool(learner.exercises)
            said += [f"wrong: {', '.join(wrong)}"] * bool(wrong) + [learner.remark] * bool(learner.remark)
            print(f"{learner.name:20} {'; '.join(said)}", flush=True)
    if as_json:
        print(json.dumps([learner._asdict() | {"exercises": [exercise._asdict() for exercise in learner.exercises]}
                          for learner in learners], indent=2))
    return int(any(not learner.exercises or any(exercise.wrong for exercise in learner.exercises)
                   for learner in learners))


def load_as(arguments):
    """What `minqwen.load` gives with all of its options, which `chat` and `verify` have under their names."""
    from .chat import load

    options = {name: getattr(arguments, name) for name in list(inspect.signature(load).parameters)[1:]}
    return load(arguments.checkpoint, **options)


def chat(arguments) -> None:
    """Talk to a checkpoint. Ctrl-C stops the answer, Ctrl-D (or an empty line) the program."""
    from .generate import number
    from .media import check_media

    names = ("temperature", "top_k", "top_p", "min_p", "presence_penalty", "max_new_tokens", "thinking_budget",
             "draft_tokens", "seed")
    options = {name: number(name, value) for name in names if (value := getattr(arguments, name)) is not None}
    check_media(arguments.image, arguments.video)
    qwen = load_as(arguments)
    talk = qwen.conversation(system=arguments.system, thinking=arguments.thinking, **options)
    media = {kind: paths for kind, paths in (("images", arguments.image), ("videos", arguments.video)) if paths}
    print(qwen, "\nCtrl-C stops an answer, Ctrl-D ends.\n", sep="")
    if hasattr(sys.stdin, "reconfigure"):                # or one byte that is not UTF-8 is the end of all that comes
        sys.stdin.reconfigure(errors="surrogateescape")
    while True:
        try:
            text = input("> ")
        except (EOFError, KeyboardInterrupt):
            return print()
        if not text.strip():
            return None
        try:
            text.encode()
        except UnicodeEncodeError:
            print("minqwen: this line is not UTF-8, so it was not understood: write it again.", file=sys.stderr)
            continue
        speak(talk(text, stream=True, **media))
        media = {}


def speak(pieces) -> None:
    """Print an answer as it comes, its thinking dimmed; Ctrl-C stops it."""
    dim, plain = ("\033[2m", "\033[0m") if sys.stdout.isatty() else ("", "")
    was_thinking = False
    try:
        for piece in pieces:
            if piece.thinking != was_thinking:
                print(dim if piece.thinking else f"{plain}\n", end="")
            was_thinking = piece.thinking
            print(piece, end="", flush=True)
    except KeyboardInterrupt:
        print(" ...", end="")
    print(f"{plain}\n")


def verify(arguments) -> int:
    """Compare a checkpoint piece by piece with transformers: kernels, modules, logits, cache. Exit code 1 if wrong."""
    from .verify import verify

    report = verify(load_as(arguments))
    print(report)
    return 0 if report.ok else 1


def info(arguments) -> None:
    """Layers, parameters, bytes of weights, and the cache at a context. Names such as Qwen3.5-4B need no download."""
    from .checkpoint import config_as_stored, quantized_by
    from .config import OFFICIAL_SIZES, SAME_AS, Config
    from .info import describe

    name, stored = arguments.checkpoint, ""
    short = name.removeprefix("Qwen/").removesuffix("-Base")
    known = not Path(name).exists() and (short in OFFICIAL_SIZES | SAME_AS or "/" not in name)
    config = Config.named(name) if known else config_as_stored(name, arguments.revision)
    if arguments.context is not None and arguments.context < 1:
        raise QwenError(f"--context is {arguments.context}, and must be at least one token.")
    if not known and (method := quantized_by(name, arguments.revision)):
        stored = f"\nstored        as codes and scales, by {method}: in less than its weights are said to take"
    options = arguments.bits, arguments.group_size, arguments.embeddings
    print(f"{name}\n\n{describe(config, arguments.context, arguments.dtype, *options)}{stored}")


def download(arguments) -> None:
    """Fetch a checkpoint, unless it was fetched before, and print the folder that it is in (and its size, apart)."""
    from .checkpoint import resolve
    from .info import readable

    folder = resolve(arguments.checkpoint, arguments.revision)
    sizes = [path.stat().st_size for path in folder.iterdir() if path.is_file()]
    print(f"{len(sizes)} files, {readable(sum(sizes))}:", file=sys.stderr)
    print(folder)


def bench(arguments) -> None:
    """Time our calls and transformers' by turns, and print how many times faster ours are."""
    from .bench import run

    run(arguments.quick, arguments.only, arguments.layers, arguments.folder, arguments.device, arguments.markdown)


if __name__ == "__main__":
    sys.exit(main())
