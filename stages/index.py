"""Write the index that searches are answered from.    python -m stages.index"""

from pathlib import Path

from tuwen.core.errors import report_user_errors
from tuwen.core.params import load_params
from tuwen.service.index.build import Project, write_index


@report_user_errors
def main() -> None:
    """Run the stage."""
    params = load_params()
    project = Project(Path("data"), Path("models"), Path("embeddings"), Path("results"))
    write_index(project, Path("index"), params.index, params.embed)


if __name__ == "__main__":
    main()
