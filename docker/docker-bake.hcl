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

# Base images, each pinned by its digest. There is no default: docker/README.md says how to look them up.
variable "PYTHON_DIGEST" {
  default = ""
  validation {
    condition     = PYTHON_DIGEST != ""
    error_message = "PYTHON_DIGEST is not set: sha256:... of docker.io/library/python:3.12-slim-bookworm."
  }
}

variable "AIRFLOW_DIGEST" {
  default = ""
}

variable "CUDA_DIGEST" {
  default = ""
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
