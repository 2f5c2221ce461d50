--- pandoc's filter for a page of the site: links to files of the repository become links to the
-- pages that show them.

-- luacheck: globals pandoc

local folder = "" -- of the page, from the root

local function note_folder(meta)
  folder = meta.folder and pandoc.utils.stringify(meta.folder) or ""
end

--- Is it a folder of the repository? (The site is made in the repository's root.)
local function is_folder(path)
  local file = io.open(path .. "/.")
  if file then file:close() end
  return file ~= nil
end

local function page_of(target)
  if target:find "^%a+:" or target:find "^#" then return target end
  local path, anchor = target:match "^([^#]*)(.*)$"
  if path:find "%.png$" then return target end
  if folder .. path == "README.md" or path == "../README.md" then return path:gsub("README%.md$", "index.html") .. anchor end
  if is_folder(folder .. path) then return path:gsub("/?$", "/index.html", 1) end
  if path:find "%.md$" then return path:gsub("%.md$", ".html") .. anchor end
  return path .. ".html" .. anchor
end

local function link(element)
  element.target = page_of(element.target)
  return element
end

return { { Meta = note_folder }, { Link = link } }
