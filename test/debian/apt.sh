# To be sourced: APT for another Debian release beside this Debian 12. Its state lies
# in a directory of the caller's; the system's sources, lists and packages aren't touched.

# The Debian mirror that this machine uses: the source of its own release.
archive() {
  local codename
  codename=$(sed -n 's/^VERSION_CODENAME=//p' /etc/os-release)
  # shellcheck disable=SC2016  # these are apt's variables
  apt-get indextargets --format '$(REPO_URI) $(RELEASE) $(COMPONENT) $(CREATED_BY)' |
    awk -v release="$codename" '$2 == release && $3 == "main" && $4 == "Packages" { print $1 }' |
    grep '/debian/*$' | sort -u | head -n 1
}

# The options that keep apt inside directory $1, in $1/apt.conf, for release $2.
write_config() {
  local state=$1
  mkdir -p "$state"/{lists/partial,cache/archives/partial,sources,empty}
  : >"$state/status"
  cat >"$state/apt.conf" <<EOF
#clear APT::Update::Post-Invoke;
#clear APT::Update::Post-Invoke-Success;
#clear APT::Update::Pre-Invoke;
#clear DPkg::Pre-Install-Pkgs;
#clear DPkg::Pre-Invoke;
#clear DPkg::Post-Invoke;
Dir::State "$state";
Dir::State::lists "$state/lists";
Dir::State::status "$state/status";
Dir::Cache "$state/cache";
Dir::Cache::archives "$state/cache/archives";
Dir::Etc::sourcelist "/dev/null";
Dir::Etc::sourceparts "$state/sources";
Dir::Etc::preferences "/dev/null";
Dir::Etc::preferencesparts "$state/empty";
Dir::Log "$state";
APT::Sandbox::User "root";
APT::Install-Recommends "false";
Acquire::Languages "none";
Acquire::IndexTargets::deb::DEP-11::DefaultEnabled "false";
Acquire::IndexTargets::deb::Contents-deb::DefaultEnabled "false";
EOF
  cat >"$state/sources/debian.sources" <<EOF
Types: deb
URIs: $(archive)
Suites: $2
Components: main
Signed-By: /usr/share/keyrings/debian-archive-keyring.gpg
EOF
}
