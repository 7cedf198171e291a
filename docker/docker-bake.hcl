# docker buildx bake --file docker/docker-bake.hcl, from the repository's root; see docker/README.md.

variable "REGISTRY" {
  # Such as registry.example.org/team/windtunnel; images are called REGISTRY/NAME.
  default = "windtunnel"
}

variable "VERSION" {
  default = "0.1.0"
}

variable "REVISION" {
  # The commit.
  default = ""
}

variable "PLATFORMS" {
  default = "linux/amd64,linux/arm64"
}

# Base images, each pinned by its digest. There is no default: docker/README.md says how to look them up. Every variable
# is looked at whatever is built, so two may be empty here; their recipe then says which one is not given.
variable "PYTHON_DIGEST" {
  default = ""
  validation {
    condition     = PYTHON_DIGEST != ""
    error_message = "PYTHON_DIGEST is not set: sha256:... of docker.io/library/python:3.12-slim-bookworm."
  }
  validation {
    condition     = PYTHON_DIGEST == "" || length(regexall("^sha256:[0-9a-f]{64}$", PYTHON_DIGEST)) == 1
    error_message = "PYTHON_DIGEST is no digest: sha256: and 64 hexadecimal digits, as docker/README.md says."
  }
}

variable "AIRFLOW_DIGEST" {
  default = ""
  validation {
    condition     = AIRFLOW_DIGEST == "" || length(regexall("^sha256:[0-9a-f]{64}$", AIRFLOW_DIGEST)) == 1
    error_message = "AIRFLOW_DIGEST is no digest: sha256: and 64 hexadecimal digits, as docker/README.md says."
  }
}

variable "CUDA_DIGEST" {
  default = ""
  validation {
    condition     = CUDA_DIGEST == "" || length(regexall("^sha256:[0-9a-f]{64}$", CUDA_DIGEST)) == 1
    error_message = "CUDA_DIGEST is no digest: sha256: and 64 hexadecimal digits, as docker/README.md says."
  }
}

group "default" {
  targets = ["registry", "airflow", "trainer", "model-server", "collector"]
}

group "all" {
  targets = ["registry", "airflow", "trainer", "trainer-cuda", "model-server", "collector"]
}

target "common" {
  context   = "."
  platforms = split(",", PLATFORMS)
  args = {
    PYTHON_DIGEST = PYTHON_DIGEST
    VERSION       = VERSION
    REVISION      = REVISION
  }
  # A list of what is in the image (SPDX), and how it was made (SLSA), beside it in the registry.
  attest = [
    "type=sbom",
    "type=provenance,mode=max",
  ]
}

target "registry" {
  inherits   = ["common"]
  dockerfile = "docker/registry/Dockerfile"
  tags       = ["${REGISTRY}/registry:${VERSION}"]
}

target "airflow" {
  inherits   = ["common"]
  dockerfile = "docker/airflow/Dockerfile"
  tags       = ["${REGISTRY}/airflow:${VERSION}"]
  args = {
    AIRFLOW_DIGEST = AIRFLOW_DIGEST
  }
}

target "trainer" {
  inherits   = ["common"]
  dockerfile = "docker/trainer/Dockerfile"
  target     = "cpu"
  tags       = ["${REGISTRY}/trainer:${VERSION}"]
}

target "trainer-cuda" {
  inherits   = ["common"]
  dockerfile = "docker/trainer/Dockerfile"
  target     = "cuda"
  tags       = ["${REGISTRY}/trainer:${VERSION}-cuda"]
  args = {
    CUDA_DIGEST = CUDA_DIGEST
  }
}

target "model-server" {
  inherits   = ["common"]
  dockerfile = "docker/model-server/Dockerfile"
  tags       = ["${REGISTRY}/model-server:${VERSION}"]
}

target "collector" {
  inherits   = ["common"]
  dockerfile = "docker/collector/Dockerfile"
  tags       = ["${REGISTRY}/collector:${VERSION}"]
}
