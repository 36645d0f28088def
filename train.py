"""The door: python train.py [group=option] [key=value]. What happens behind it is in src/run.py."""

import sys

from src import check

if __name__ == "__main__":
    check.door(sys.argv[1:])  # answers --help and mistakes; the imports below it cost more than that

import hydra


@hydra.main(version_base="1.3", config_path="configs", config_name="train")
def main(cfg) -> None:
    from src.run import job  # torch is imported behind the check, and not at all for --help and --cfg

    codes.append(job(cfg))
    if codes[-1] in (130, 143):
        sys.exit(codes[-1])  # told to stop: the other jobs of a sweep too


if __name__ == "__main__":
    codes: list[int] = []
    try:
        main()
    except KeyboardInterrupt:
        sys.exit(130)  # while torch was imported: nothing was run
    sys.exit(max(codes, default=0))
