{{- define "windtunnel.fullname" -}}
{{- default .Release.Name .Values.fullnameOverride | trunc 40 | trimSuffix "-" -}}
{{- end -}}

{{- define "windtunnel.registry" -}}
{{- include "windtunnel.fullname" . }}-registry
{{- end -}}

{{- define "windtunnel.postgresql" -}}
{{- include "windtunnel.fullname" . }}-postgresql
{{- end -}}

{{/* Arguments: root, component. */}}
{{- define "windtunnel.selector" -}}
app.kubernetes.io/name: windtunnel
app.kubernetes.io/instance: {{ .root.Release.Name }}
app.kubernetes.io/component: {{ .component }}
{{- end -}}

{{/* Arguments: root, component. */}}
{{- define "windtunnel.labels" -}}
{{ include "windtunnel.selector" . }}
app.kubernetes.io/version: {{ .root.Chart.AppVersion | quote }}
app.kubernetes.io/part-of: windtunnel
app.kubernetes.io/managed-by: {{ .root.Release.Service }}
helm.sh/chart: {{ printf "%s-%s" .root.Chart.Name .root.Chart.Version | replace "+" "_" | quote }}
{{- with .root.Values.commonLabels }}
{{ toYaml . }}
{{- end }}
{{- end -}}

{{/* Arguments: registry, repository, tag, digest. */}}
{{- define "windtunnel.ref" -}}
{{- with .registry }}{{ . | trimSuffix "/" }}/{{ end }}{{ .repository }}
{{- with .tag }}:{{ . }}{{ end }}
{{- with .digest }}@{{ . }}{{ end }}
{{- end -}}

{{- define "windtunnel.image" -}}
{{- $image := .Values.image -}}
{{- include "windtunnel.ref" (dict "registry" $image.registry "repository" $image.repository "tag" (default .Chart.AppVersion $image.tag) "digest" $image.digest) -}}
{{- end -}}

{{- define "windtunnel.pull" -}}
{{- with .Values.image.pullSecrets }}
imagePullSecrets:
  {{- range . }}
  - name: {{ . }}
  {{- end }}
{{- end }}
{{- end -}}

{{/* Where an alert is explained; arguments: root, alert. A heading's anchor is the heading in small letters. */}}
{{- define "windtunnel.runbook" -}}
{{- printf "%s#%s" (default "docs/how-to/answer-an-alert.md" .root.Values.monitoring.rules.runbookUrl) (lower .alert) | quote -}}
{{- end -}}

{{/* Of a pod of ours: the restricted level of the Pod Security Standards. */}}
{{- define "windtunnel.podSecurity" -}}
runAsNonRoot: true
{{- with .Values.registry.runAsUser }}
runAsUser: {{ . }}
runAsGroup: 0
{{- end }}
{{- with .Values.registry.fsGroup }}
fsGroup: {{ . }}
fsGroupChangePolicy: OnRootMismatch
{{- end }}
seccompProfile:
  type: RuntimeDefault
{{- end -}}

{{- define "windtunnel.containerSecurity" -}}
allowPrivilegeEscalation: false
capabilities:
  drop: [ALL]
privileged: false
readOnlyRootFilesystem: true
runAsNonRoot: true
{{- end -}}

{{/* Where a pod may run. Arguments: place (nodeSelector, tolerations, priorityClassName); lost, seconds after which a node
that is out of reach is given up: Kubernetes itself waits five minutes. */}}
{{- define "windtunnel.placement" -}}
{{- with .place.priorityClassName }}
priorityClassName: {{ . }}
{{- end }}
{{- with .place.nodeSelector }}
nodeSelector:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- if or .lost .place.tolerations }}
tolerations:
  {{- with .lost }}
  - {key: node.kubernetes.io/not-ready, operator: Exists, effect: NoExecute, tolerationSeconds: {{ . }}}
  - {key: node.kubernetes.io/unreachable, operator: Exists, effect: NoExecute, tolerationSeconds: {{ . }}}
  {{- end }}
  {{- with .place.tolerations }}
  {{- toYaml . | nindent 2 }}
  {{- end }}
{{- end }}
{{- end -}}

{{/* Authorities of somebody else's servers: a secret with ca.crt, mounted at /etc/windtunnel/NAME. Arguments: name, secret. */}}
{{- define "windtunnel.caVolume" -}}
{{- if .secret }}
- name: {{ .name }}
  secret:
    secretName: {{ .secret }}
    defaultMode: 0444
    items:
      - key: ca.crt
        path: ca.crt
{{- end }}
{{- end -}}

{{- define "windtunnel.caMount" -}}
{{- if .secret }}
- name: {{ .name }}
  mountPath: /etc/windtunnel/{{ .name }}
  readOnly: true
{{- end }}
{{- end -}}

{{- define "windtunnel.scheme" -}}
{{- if .Values.tls.enabled }}https{{ else }}http{{ end -}}
{{- end -}}

{{- define "windtunnel.url" -}}
{{- include "windtunnel.scheme" . }}://{{ include "windtunnel.registry" . }}.{{ .Release.Namespace }}.svc:{{ .Values.registry.port }}
{{- end -}}

{{- define "windtunnel.tlsSecret" -}}
{{- default (printf "%s-tls" (include "windtunnel.registry" .)) .Values.tls.secretName -}}
{{- end -}}

{{/* The mounted secrets of the server: one folder. */}}
{{- define "windtunnel.secretVolume" -}}
- name: secrets
  projected:
    defaultMode: 0440
    sources:
      - secret:
          name: {{ .Values.secret.name }}
          items:
            {{- range list "mlflow-admin" "mlflow-service" "mlflow-flask-key" }}
            - key: {{ . }}
              path: {{ . }}
            {{- end }}
      - secret:
          name: {{ .database }}
          items:
            - key: database-url
              path: database-url
      {{- with .replica }}
      - secret:
          name: {{ . }}
          items:
            - key: database-url
              path: database-replica-url
      {{- end }}
{{- end -}}

{{/* What a schema cannot say in words that help. */}}
{{- define "windtunnel.check" -}}
{{- $v := .Values -}}
{{- if not (regexMatch "^[a-z][-a-z0-9]*$" (include "windtunnel.fullname" .)) -}}
{{- fail (printf "fullnameOverride: empty, and the release's name %q cannot be that of a Service; expected letters, digits and '-', a letter first" .Release.Name) -}}
{{- end -}}
{{- if and (eq $v.artifacts.store "s3") (not $v.artifacts.destination) -}}
{{- fail "artifacts.destination: empty, expected s3://BUCKET/PREFIX (or artifacts.store=volume)" -}}
{{- end -}}
{{- if and (eq $v.artifacts.store "volume") $v.artifacts.destination -}}
{{- fail "artifacts.destination: set, but artifacts.store is volume; expected artifacts.store=s3" -}}
{{- end -}}
{{- if and (gt (int $v.registry.replicas) 1) $v.postgresql.enabled -}}
{{- fail "registry.replicas: more than 1, but postgresql.enabled is one small database for trying out; expected a database of your own, whose lock says which server serves" -}}
{{- end -}}
{{- if and (gt (int $v.registry.replicas) 1) $v.registry.volume.enabled (ne $v.registry.volume.accessMode "ReadWriteMany") -}}
{{- fail "registry.replicas: more than 1, but registry.volume is on one node at a time; expected registry.volume.enabled=false (with registry.keys.secretName, artifacts.store=s3 and audit.publishUrl), or registry.volume.accessMode=ReadWriteMany" -}}
{{- end -}}
{{- if and (gt (int $v.registry.replicas) 1) $v.audit.publishClaim -}}
{{- fail "audit.publishClaim: a claim that every server would have to reach; with registry.replicas more than 1 expected audit.publishUrl" -}}
{{- end -}}
{{- if and (not $v.registry.volume.enabled) (ne $v.artifacts.store "s3") -}}
{{- fail "registry.volume.enabled: false, but artifacts.store=volume keeps the models' files on it; expected artifacts.store=s3" -}}
{{- end -}}
{{- if and (not $v.registry.volume.enabled) (not $v.registry.keys.secretName) -}}
{{- fail "registry.keys.secretName: empty; without a volume the keys that sign have to be in a secret: windtunnel registry keys secret windtunnel-keys --new | kubectl apply -f -" -}}
{{- end -}}
{{- if and (not $v.registry.volume.enabled) (not $v.audit.publishUrl) -}}
{{- fail "audit.publishUrl: empty; without a volume the audit's checkpoints have to be in a bucket, expected s3://BUCKET/PREFIX, best with an object lock" -}}
{{- end -}}
{{- if and $v.audit.publishClaim $v.audit.publishUrl -}}
{{- fail "audit: publishClaim and publishUrl are set; expected one place beside the server's own" -}}
{{- end -}}
{{- if and $v.audit.publishUrl (ne $v.artifacts.store "s3") -}}
{{- fail "audit.publishUrl: a bucket is written by the credentials of artifacts.s3; expected artifacts.store=s3" -}}
{{- end -}}
{{- if and $v.tls.enabled (not $v.tls.secretName) (not $v.tls.certManager.enabled) -}}
{{- fail "tls.enabled: nobody brings the certificate; expected tls.secretName, or tls.certManager.enabled" -}}
{{- end -}}
{{- if and $v.tls.certManager.enabled (not $v.tls.certManager.issuerName) -}}
{{- fail "tls.certManager.issuerName: empty, expected the name of an Issuer or ClusterIssuer" -}}
{{- end -}}
{{- if and $v.tls.certManager.enabled (not $v.tls.enabled) -}}
{{- fail "tls.certManager.enabled: true, but tls.enabled is false; expected both" -}}
{{- end -}}
{{- if and $v.ingress.enabled (not $v.ingress.host) -}}
{{- fail "ingress.host: empty, expected the name people will use" -}}
{{- end -}}
{{- if and $v.ingress.enabled (not $v.ingress.tlsSecretName) (not $v.ingress.annotations) -}}
{{- fail "ingress: nobody brings the certificate; expected ingress.tlsSecretName, or annotations by which the controller finds one" -}}
{{- end -}}
{{- if and $v.monitoring.serviceMonitor.enabled (not $v.monitoring.serviceMonitor.secretName) -}}
{{- fail "monitoring.serviceMonitor.secretName: empty, expected a secret with the keys username and password" -}}
{{- end -}}
{{- if and $v.oidc.issuer (not $v.oidc.audience) -}}
{{- fail "oidc.audience: empty, expected what the tokens for this registry are for" -}}
{{- end -}}
{{- if and $v.airflow.url (not $v.airflow.secretName) -}}
{{- fail "airflow.secretName: empty, expected a secret with the keys username and password" -}}
{{- end -}}
{{- if and $v.postgresql.enabled $v.migration.enabled $v.migration.hook $v.migration.beforeInstall -}}
{{- fail "migration.beforeInstall: true, but the database of postgresql.enabled is not there before the installation; expected false" -}}
{{- end -}}
{{- if and $v.database.serverRole (not $v.database.ownerSecretName) -}}
{{- fail "database.ownerSecretName: empty; with database.serverRole it has to be the secret of the tables' owner" -}}
{{- end -}}
{{- if and $v.guard.enabled (not $v.guard.modelServer) -}}
{{- fail "guard.modelServer: empty, expected the image of the model servers, by digest if you can" -}}
{{- end -}}
{{- if and $v.collector.enabled (not $v.collector.to) -}}
{{- fail "collector.to: empty, expected s3://BUCKET/PREFIX (or file:///predictions with collector.claim)" -}}
{{- end -}}
{{- if and $v.collector.enabled (hasPrefix "file:" $v.collector.to) (not $v.collector.claim) -}}
{{- fail "collector.claim: empty; with a collector.to of file:///predictions it has to be the claim that readers mount, too" -}}
{{- end -}}
{{- if and $v.collector.enabled $v.tls.enabled (not $v.collector.plain) (not $v.tls.certManager.enabled) (not $v.collector.tlsSecretName) -}}
{{- fail "collector.tlsSecretName: empty; with tls.enabled expected a certificate of the collector's own, or collector.plain" -}}
{{- end -}}
{{- if and $v.migration.downgradeTo (ne (int $v.registry.replicas) 0) -}}
{{- fail "migration.downgradeTo: set, but a server would bring the tables up again; expected registry.replicas=0" -}}
{{- end -}}
{{- if and $v.migration.downgradeTo (not $v.migration.enabled) -}}
{{- fail "migration.downgradeTo: set, but migration.enabled is false; expected true" -}}
{{- end -}}
{{- if and $v.database.serverRole (not $v.migration.enabled) -}}
{{- fail "migration.enabled: false; with database.serverRole the server may not change the schema itself" -}}
{{- end -}}
{{- end -}}

{{/* Whether a second server has to wait until the first has gone: for its volume. */}}
{{- define "windtunnel.alone" -}}
{{- if and .Values.registry.volume.enabled (ne .Values.registry.volume.accessMode "ReadWriteMany") }}true{{ end -}}
{{- end -}}

{{/* Where names are asked. */}}
{{- define "windtunnel.dns" -}}
- to:
    {{- range .Values.networkPolicy.dns.namespaces }}
    - namespaceSelector:
        matchLabels:
          kubernetes.io/metadata.name: {{ . }}
    {{- end }}
    {{- range .Values.networkPolicy.dns.cidrs }}
    - ipBlock:
        cidr: {{ . }}
    {{- end }}
  ports:
    {{- range .Values.networkPolicy.dns.ports }}
    - port: {{ . }}
      protocol: UDP
    - port: {{ . }}
      protocol: TCP
    {{- end }}
{{- end -}}

{{/* The world outside: object store, identity provider, proxy. */}}
{{- define "windtunnel.outside" -}}
- to:
    {{- range .Values.networkPolicy.toCidrs }}
    - ipBlock:
        cidr: {{ . }}
        {{- if eq . "0.0.0.0/0" }}
        # The cloud's metadata, which would give out the node's own role.
        except: [169.254.169.254/32]
        {{- else if eq . "::/0" }}
        except: ["fd00:ec2::254/128"]
        {{- end }}
    {{- end }}
  ports:
    {{- range .Values.networkPolicy.toPorts }}
    - port: {{ . }}
      protocol: TCP
    {{- end }}
{{- if .Values.networkPolicy.podIdentity }}
# The agent of EKS Pod Identity on the pod's node: credentials of the service account's role.
- to:
    - ipBlock:
        cidr: {{ if contains ":" .Values.listen }}fd00:ec2::23/128{{ else }}169.254.170.23/32{{ end }}
  ports:
    - port: 80
      protocol: TCP
{{- end }}
{{- end -}}

{{/* Namespaces whose pods ask the registry, as a JSON list: those that are named, and those that the chart's own parts
are for. Model servers fetch what was sealed before they start. */}}
{{- define "windtunnel.visitors" -}}
{{- $v := .Values -}}
{{- $found := $v.networkPolicy.fromNamespaces -}}
{{- if $v.training.enabled }}{{ $found = concat $found (list $v.training.namespace $v.training.airflowNamespace) (default (list) $v.training.moreNamespaces) }}{{ end -}}
{{- if $v.releases.enabled }}{{ $found = concat $found (list $v.releases.namespace $v.releases.airflowNamespace) }}{{ end -}}
{{- if $v.guard.enabled }}{{ $found = append $found $v.guard.namespace }}{{ end -}}
{{- without ($found | uniq) "" | toJson -}}
{{- end -}}

{{/* Where a part that has nothing but the database may go. */}}
{{- define "windtunnel.egress" -}}
{{ include "windtunnel.dns" . }}
{{- if .Values.postgresql.enabled }}
- to:
    - podSelector:
        matchLabels:
          {{- include "windtunnel.selector" (dict "root" . "component" "postgresql") | nindent 10 }}
  ports:
    - port: 5432
      protocol: TCP
{{- else }}
- to:
    {{- range .Values.networkPolicy.databaseCidrs }}
    - ipBlock:
        cidr: {{ . }}
    {{- end }}
    {{- range .Values.networkPolicy.databaseNamespaces }}
    - namespaceSelector:
        matchLabels:
          kubernetes.io/metadata.name: {{ . }}
    {{- end }}
  ports:
    - port: {{ .Values.database.port }}
      protocol: TCP
{{- end }}
{{- end -}}

{{- define "windtunnel.collector" -}}
{{- include "windtunnel.fullname" . }}-collector
{{- end -}}

{{- define "windtunnel.collectorTls" -}}
{{- if and .Values.tls.enabled (not .Values.collector.plain) }}true{{ end -}}
{{- end -}}

{{- define "windtunnel.collectorScheme" -}}
{{- if include "windtunnel.collectorTls" . }}https{{ else }}http{{ end -}}
{{- end -}}

{{- define "windtunnel.collectorTlsSecret" -}}
{{- default (printf "%s-tls" (include "windtunnel.collector" .)) .Values.collector.tlsSecretName -}}
{{- end -}}

{{- define "windtunnel.collectorImage" -}}
{{- $image := .Values.collector.image -}}
{{- include "windtunnel.ref" (dict "registry" .Values.image.registry "repository" $image.repository "tag" (default .Chart.AppVersion $image.tag) "digest" $image.digest) -}}
{{- end -}}

{{/* What the guard is told of Seldon. Values are quoted as JSON, which TOML reads. */}}
{{- define "windtunnel.guardSettings" -}}
seldon.toml: |
  api = {{ .Values.guard.api | toJson }}
  image = {{ .Values.guard.modelServer | toJson }}
  registry = {{ include "windtunnel.url" . | toJson }}
  namespace = {{ default .Release.Namespace .Values.guard.namespace | toJson }}
{{- end -}}

{{/* Whether it looked at the leases within the last half a minute. */}}
{{- define "windtunnel.guardBeats" -}}
[python, -c, "import json, sys, time; sys.exit(time.time() - json.load(open('/var/lib/windtunnel/serving/guard.json'))['at'] > 30)"]
{{- end -}}
