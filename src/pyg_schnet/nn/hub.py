r"""Networks on the Hugging Face Hub: the file that :meth:`SchNet.save` writes, in a repository."""

from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

FILE_NAME = "model.safetensors"


def push(model: Any, repo_id: str, private: bool, token: str | None, message: str) -> str:
    """Uploads a model, see :meth:`SchNet.push_to_hub`."""
    api = _import_hub().HfApi(token=token)
    with TemporaryDirectory() as folder:
        path = Path(folder) / FILE_NAME
        model.save(path)
        api.create_repo(repo_id=repo_id, private=private, exist_ok=True)
        commit = api.upload_file(
            path_or_fileobj=str(path),
            path_in_repo=FILE_NAME,
            repo_id=repo_id,
            commit_message=message,
        )
    return str(commit)


def download(
    repo_id: str, revision: str | None, token: str | None, cache_dir: str | Path | None
) -> Path:
    """Downloads the file of a model, or finds it in the cache, see :meth:`SchNet.from_hub`."""
    path = _import_hub().hf_hub_download(
        repo_id=repo_id,
        filename=FILE_NAME,
        revision=revision,
        token=token,
        cache_dir=cache_dir,
    )
    return Path(path)


def _import_hub() -> Any:
    try:
        import huggingface_hub
    except ImportError as error:
        raise ImportError(
            "the Hugging Face Hub needs huggingface_hub: pip install pyg-schnet[hub]"
        ) from error
    return huggingface_hub
